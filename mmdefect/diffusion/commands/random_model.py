"""``generate.py random-model``."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Write a tiny pipeline with random weights, to try all other commands without a download.

It computes images of 32 or 64 pixels in seconds on a CPU; what it generates is noise.

    python tools/generate.py random-model --kind sd --out models/random
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--kind', choices=['ldm', 'sd', 'sdxl'], default='sd')
    parser.add_argument('--out', type=Path, required=True, help='folder; must not exist')
    parser.add_argument('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.random_model import save_pipeline

    print(f'written: {save_pipeline(args.out, args.kind, args.seed)}')
