"""Predict images, folders, patterns, videos or a list, and write label maps and a table of defects."""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import one_line_errors

#: Exit codes: 2 is a mistake in the call.
UNREADABLE, DEFECT = 1, 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Exit codes: 0 fine, 1 an image could not be read, 2 a '
        'mistake in the call, 3 a defect was found (with --fail-on-defect).',
    )
    parser.add_argument('model', help='exported .onnx file (runs without PyTorch) or checkpoint')
    parser.add_argument(
        'inputs', nargs='+', help='images, folders, patterns, videos; - reads a list from standard input'
    )
    parser.add_argument('--out', required=True, help='folder; an earlier run with the same settings is continued')
    parser.add_argument('--overwrite', action='store_true', help='remove what an earlier run wrote there')
    parser.add_argument(
        '--overlay',
        nargs='?',
        const='.png',
        default='',
        choices=['.png', '.jpg'],
        help='also write images with the defects drawn in (default suffix .png)',
    )
    parser.add_argument('--probabilities', action='store_true', help='also write probabilities (.npz)')
    decision = parser.add_argument_group('decision')
    decision.add_argument(
        '--threshold',
        dest='thresholds',
        nargs='+',
        metavar='[CLASS=]VALUE',
        help='probability against normal above which a pixel is a defect, for all classes or by name '
        '(default: those that the validation of the checkpoint fitted)',
    )
    decision.add_argument(
        '--min-area', dest='min_area_px', type=int, default=0, metavar='PIXELS', help='drop smaller regions'
    )
    decision.add_argument(
        '--mm-per-pixel', type=float, metavar='MM', help='side of a pixel, for lengths in millimetres'
    )
    decision.add_argument('--fail-on-defect', action='store_true', help='exit with 3 when any image has a defect')
    tiles = parser.add_argument_group('large images')
    tiles.add_argument('--tile', type=int, nargs='+', metavar='PIXELS', help='side, or height and width, of tiles')
    tiles.add_argument('--split', type=int, metavar='N', help='N x N tiles of every image instead')
    tiles.add_argument(
        '--overlap',
        type=int,
        metavar='PIXELS',
        help='that neighbouring tiles share (default: an eighth of --tile, none with --split)',
    )
    tiles.add_argument('--margin', type=int, default=0, metavar='PIXELS', help='of inner borders that count nothing')
    tiles.add_argument(
        '--tile-multiple', type=int, default=1, metavar='PIXELS', help='tiles start at multiples of this'
    )
    speed = parser.add_argument_group('speed')
    speed.add_argument('--batch', type=int, default=4, help='images, or tiles, of one call (default: 4)')
    speed.add_argument('--workers', type=int, default=2, help='threads that decode, and that write (default: 2)')
    speed.add_argument(
        '--processes',
        type=int,
        default=1,
        metavar='N',
        help='that predict parts of a large folder side by side, each with its own model (default: 1)',
    )
    speed.add_argument(
        '--engine',
        choices=['local', 'ray'],
        default='local',
        help='where they run; ray: $RAY_ADDRESS, or a Ray started here',
    )
    speed.add_argument('--threads', type=int, help='threads of one call of ONNX Runtime (default: all)')
    speed.add_argument('--device', help='of PyTorch, for a checkpoint (default: cpu)')
    parser.add_argument('--config', help='leaf config (or leaf.py+recipe), for a checkpoint that does not hold its own')
    parser.add_argument('--max-pixels', type=int, default=2**30, help='larger images are rejected (default: 2**30)')
    return parser.parse_args()


@one_line_errors(ValueError, OSError, ImportError)
def main() -> int:
    args = vars(parse_args())
    from mmdefect.deployment.predict import predict

    fail_on_defect, out = args.pop('fail_on_defect'), args['out']
    options = {name: args.pop(name) for name in ('config', 'device', 'threads')}
    given = {name: value for name, value in options.items() if value is not None}
    summary = predict(options=given, lines=sys.stdin, **args)
    for message in summary.failed:
        print(f'error: {message}', file=sys.stderr)
    earlier = f' ({summary.skipped} were there already)' if summary.skipped else ''
    print(
        f'{out}: {summary.images} images predicted{earlier}, {summary.defective} defective, '
        f'{len(summary.failed)} unreadable; {summary.rule}'
    )
    if summary.failed:
        return UNREADABLE
    return DEFECT if fail_on_defect and summary.defective else 0


if __name__ == '__main__':
    sys.exit(main())
