"""Test a checkpoint on the test set."""

from __future__ import annotations

import argparse
import os
import sys

from mmdefect.extras import stop_without

stop_without('mm')

from mmengine.config import DictAction


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='leaf config')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the log goes (default: work_dirs/<config name>)')
    parser.add_argument('--out', help='folder for the predicted label maps (PNG of class ids)')
    parser.add_argument('--show-dir', help='folder for images of image, label and prediction')
    parser.add_argument('--tta', action='store_true', help='average over scales and flips')
    parser.add_argument(
        '--decision',
        choices=['argmax', 'calibrated'],
        default='argmax',
        help='whose label maps --out and --show-dir get; the metrics hold both (default: argmax)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, for example data_root=/data/wta train_cfg.max_iters=200',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torchrun')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    from mmdefect.apis import test
    from mmdefect.ranks import end_rank

    try:
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
        )
    except (ValueError, FileNotFoundError, PermissionError) as err:
        if os.environ.get('MMDEFECT_TRACEBACK'):
            raise
        print(f'error: {err}', file=sys.stderr)
        return 2
    if args.launcher != 'none':
        end_rank(0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
