"""Export a checkpoint to one file that runs without us, and check that it predicts the same."""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint file, or an .onnx file with --int8')
    parser.add_argument('out', help='file to write: .onnx, .pt (TorchScript) or .pt2 (torch.export)')
    parser.add_argument('--config', help='leaf config (or leaf.py+recipe), for a checkpoint that does not hold its own')
    parser.add_argument(
        '--dynamic',
        choices=['none', 'batch', 'size'],
        default=None,
        help='what may differ from call to call: nothing, the number of images, or also their size '
        '(default: size for .onnx, batch otherwise)',
    )
    parser.add_argument(
        '--size', type=int, nargs='+', metavar='PIXELS', help='side, or height and width, of the images'
    )
    parser.add_argument('--batch', type=int, default=1, help='images of a call, with --dynamic none')
    parser.add_argument(
        '--int8', metavar='FOLDER', help='quantise to 8 bits with the images of this folder (.onnx only)'
    )
    parser.add_argument('--check', metavar='FOLDER', help='images to compare on (default: made ones)')
    return parser.parse_args()


@one_line_errors(ValueError, OSError, ImportError)
def main() -> int:
    args = parse_args()
    from mmdefect.extras import stop_without

    stop_without('mm')
    from mmdefect.apis.inference import export

    size = None if args.size is None else (args.size[0], args.size[-1])
    print(export(args.checkpoint, args.out, args.config, args.dynamic, size, args.batch, args.int8, args.check))
    return 0


if __name__ == '__main__':
    sys.exit(main())
