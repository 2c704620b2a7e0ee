"""Test a checkpoint on the test set."""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import one_line_errors, parse_launched
from mmdefect.extras import stop_without

stop_without('mm')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='leaf config')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the log goes (default: work_dirs/<config name>)')
    parser.add_argument('--out', help='folder for the predicted label maps (PNG of class ids)')
    parser.add_argument('--show-dir', help='folder for images of image, label and prediction')
    parser.add_argument('--tta', action='store_true', help='average over scales and flips')
    parser.add_argument(
        '--tile-split',
        type=int,
        default=1,
        metavar='N',
        help='predict images in N x N tiles, each by itself (default: 1)',
    )
    parser.add_argument(
        '--decision',
        choices=['delivered', 'argmax', 'calibrated'],
        default='delivered',
        help='what is judged and written; delivered is what predicting with the checkpoint does (default)',
    )
    return parse_launched(parser)


@one_line_errors(ValueError, FileNotFoundError, PermissionError)
def main() -> int:
    args = parse_args()
    from mmdefect.apis import test
    from mmdefect.ranks import end_rank

    test(
        args.config,
        args.checkpoint,
        args.work_dir,
        args.out,
        args.show_dir,
        args.tta,
        args.cfg_options,
        args.launcher,
        args.decision,
        args.recipes,
        args.tile_split,
    )
    if args.launcher != 'none':
        end_rank(0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
