#!/usr/bin/env python3
"""Compare ways to train: a study file, or groups of run folders.

    python tools/compare.py configs/studies/wta_losses.py
    python tools/compare.py base=runs/base_s0,runs/base_s1 new=runs/new_s0,runs/new_s1 --data-root data/wta512

A study is compared from its records, without data. A group is NAME=FOLDER,FOLDER (a folder for each seed; NAME= may be
left away for one folder); its predictions and labels are read as tools/report.py does. The first arm is what others are
compared with, unless --reference names another one. --published-rule also prints the selection of data sets by the
published rule: drop each that lowers any metric, rank the rest.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.command_line import one_line_errors
from mmdefect.extras import stop_without

stop_without('train', 'matplotlib', 'PIL', 'scipy')

from mmdefect.experiments.compare import compare, load_groups, parse_group, published_sentences, render
from mmdefect.experiments.evidence.run_folder import SearchPlaces
from mmdefect.experiments.study import read_study
from mmdefect.experiments.study_page import compare_study
from mmdefect.experiments.study_records import read_records
from mmdefect.files import write_text


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('arms', nargs='+', metavar='STUDY|NAME=RUN,RUN')
    parser.add_argument('--reference', help='arm that the others are compared with')
    parser.add_argument(
        '--metrics', nargs='+', help='default: those of the study, or foreground means and IoU of classes'
    )
    parser.add_argument('--factor-keys', nargs='+', default=[], help='patterns of settings in which arms may differ')
    parser.add_argument('--results', default=ROOT / 'docs' / 'results', type=Path, help='folder with records/')
    parser.add_argument('--data-root', type=Path, help='folder of the data set, for run folders')
    parser.add_argument('--images', type=Path, help='folder of the test images')
    parser.add_argument('--labels', type=Path, help='folder of their label maps')
    parser.add_argument('--classes', nargs='+', help='names of the classes, the background first')
    parser.add_argument('--published-rule', action='store_true')
    parser.add_argument('--out', type=Path, help='also write the Markdown to this file')
    return parser.parse_args(argv)


def of_study(args: argparse.Namespace):
    study = read_study(Path(args.arms[0]))
    study = replace(study, baseline=args.reference or study.baseline)
    comparison = compare_study(study, read_records(args.results / 'records'), args.metrics or ())
    if comparison is None:
        raise ValueError(
            f'the reference arm {study.reference!r} must have a record in {args.results / "records"}, but has '
            'none; run tools/study.py first.'
        )
    return comparison


def of_runs(args: argparse.Namespace):
    from mmdefect.apis.study import load_truth_of_config, read_settings

    groups = [parse_group(text) for text in args.arms]
    places = SearchPlaces(
        args.data_root,
        args.images,
        args.labels,
        tuple(args.classes or ()),
        lambda config: load_truth_of_config(config, args.data_root),
    )
    arms = load_groups(groups, places, read_settings)
    reference = args.reference or next(iter(arms))
    metrics = args.metrics
    if not metrics:
        first = next(iter(arms.values()))[0]
        names = first.counts.classes[1:] if first.counts is not None else ()
        metrics = ['fg_mIoU', 'fg_mAcc', *(f'IoU.{name}' for name in names)]
    return compare(arms, reference, metrics, args.factor_keys)


@one_line_errors(OSError, ValueError)
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    is_study = len(args.arms) == 1 and args.arms[0].endswith('.py')
    comparison = of_study(args) if is_study else of_runs(args)
    text = render(comparison)
    if args.published_rule:
        text += '\n' + published_sentences(comparison)
    if args.out is not None:
        write_text(args.out, text)
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
