"""What the tools share: mistakes said in one line, and the arguments of a config."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from functools import wraps


def one_line_errors(*mistakes: type[Exception]) -> Callable:
    """Make a ``main`` return 2 after one of these errors, which it prints in one line, and 0 where it returns nothing.

    A full disk is such an error for every tool, whatever met it. With the environment variable ``MMDEFECT_TRACEBACK``
    the error is raised.
    """

    def wrap(main: Callable) -> Callable:
        @wraps(main)
        def run(*arguments) -> int:
            try:
                return main(*arguments) or 0
            except Exception as err:
                full = disk_full(err)
                if os.environ.get('MMDEFECT_TRACEBACK') or not (full or isinstance(err, mistakes)):
                    raise
                print(f'error: {full or err}', file=sys.stderr)
                return 2

        return run

    return wrap


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--with`` (as ``recipes``) and ``--cfg-options``."""
    from mmengine.config import DictAction

    parser.add_argument(
        '--with',
        dest='recipes',
        nargs='+',
        default=[],
        metavar='RECIPE',
        help='lay recipes over the config: names of files in configs/_base_ (tools/list_configs.py), later ones win',
    )
    text = 'override settings of the config, for example data_root=/data/wta train_cfg.max_iters=200; the last word'
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help=text)


def parse_launched(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the options of a tool that may run as several processes: with those of a config, ``--launcher``, rank."""
    add_config_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torchrun')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add ``data_root``, ``--layout`` and ``--dataset-options``."""
    from mmengine.config import DictAction

    parser.add_argument('data_root', help='folder of the data set; paths in the file are relative to it')
    text = 'mvtec, visa, wta, combined, folder, or the name of a registered data set'
    parser.add_argument('--layout', required=True, help=text)
    options = dict(nargs='+', action=DictAction, default={}, metavar='KEY=VALUE')
    parser.add_argument('--dataset-options', **options, help='further arguments of the data set class')


def disk_full(err: BaseException | None) -> str:
    """Return in a sentence that an error, or what it came from, is a full disk; an empty text if it is not."""
    while err is not None:
        if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if err.strerror != os.strerror(err.errno):
                return str(err.strerror)  # of `mmdefect.files`, which says what to do
            where = f' for {err.filename}' if err.filename else ''
            return (
                f'the disk must have room{where}, but it is full; free some space and start the same command again (a '
                'training with --resume goes on from its last checkpoint).'
            )
        err = err.__cause__ or err.__context__
    return ''
