"""What the tools share: mistakes said in one line, and the arguments of a config."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import wraps


def one_line_errors(*mistakes: type[Exception]) -> Callable:
    """Make a ``main`` return 2 after one of these errors, which it prints in one line, and 0 where it returns nothing.

    With the environment variable ``MMDEFECT_TRACEBACK`` the error is raised.
    """

    def wrap(main: Callable) -> Callable:
        @wraps(main)
        def run(*arguments) -> int:
            try:
                return main(*arguments) or 0
            except mistakes as err:
                if os.environ.get('MMDEFECT_TRACEBACK'):
                    raise
                print(f'error: {err}', file=sys.stderr)
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


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher`` and the rank that torchrun passes."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torchrun')


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add ``data_root``, ``--layout`` and ``--dataset-options``."""
    from mmengine.config import DictAction

    parser.add_argument('data_root', help='folder of the data set; paths in the file are relative to it')
    text = 'mvtec, visa, wta, combined, folder, or the name of a registered data set'
    parser.add_argument('--layout', required=True, help=text)
    options = dict(nargs='+', action=DictAction, default={}, metavar='KEY=VALUE')
    parser.add_argument('--dataset-options', **options, help='further arguments of the data set class')
