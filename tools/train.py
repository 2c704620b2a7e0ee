"""Train a segmentation model."""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import one_line_errors, parse_launched
from mmdefect.extras import stop_without

stop_without('mm')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='leaf config')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument('--resume', action='store_true', help='continue from the last checkpoint in the work dir')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    return parse_launched(parser)


@one_line_errors(ValueError, FileNotFoundError, PermissionError)
def main() -> int:
    args = parse_args()
    from mmdefect.apis import train
    from mmdefect.ranks import end_rank

    options = dict(cfg_options=args.cfg_options, recipes=args.recipes, launcher=args.launcher)
    train(args.config, args.work_dir, resume=args.resume, amp=args.amp, **options)
    if args.launcher != 'none':
        end_rank(0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
