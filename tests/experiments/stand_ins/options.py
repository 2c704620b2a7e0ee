"""The options of tools/test.py that its stand-ins know."""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', type=Path)
    parser.add_argument('--out', type=Path)
    parser.add_argument('--with', nargs='+', default=[])
    parser.add_argument('--cfg-options', nargs='+', default=[])
    return parser.parse_args()
