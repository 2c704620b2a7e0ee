"""``generate.py compare-words``."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Choose among generated sets: drop each that lowers any metric against the original data, rank the rest.

Reads the records of a study (tools/study.py) whose arms are the original data and one generated set for each word.

    python tools/study.py configs/studies/wta_words.py --data-root data/wta512
    python tools/generate.py compare-words configs/studies/wta_words.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('study', type=Path, help='study file whose arms are generated sets')
    parser.add_argument('--results', type=Path, default=Path('docs/results'), help='folder with records/')
    parser.add_argument('--metrics', nargs='+', default=[], help='those that must not fall; the first one ranks')
    parser.add_argument('--reference', help='arm of the original data (default: that of the study)')
    parser.add_argument('--out', type=Path, help='also write the Markdown to this file')


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.compare_words import compare_words
    from mmdefect.experiments.records import write_text

    text = compare_words(args.study, args.results, tuple(args.metrics), args.reference)
    if args.out is not None:
        write_text(args.out, text)
    print(text)
