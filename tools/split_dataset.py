"""Divide a data set into train, val and test and write the division as one JSON file.

Examples:
    python tools/split_dataset.py data/mvtec_ad --layout mvtec --protocol third
    python tools/split_dataset.py data/mvtec_ad --layout mvtec --category bottle --protocol kshot --k 5
    python tools/split_dataset.py data/visa --layout visa --protocol given --division 2cls_highshot
    python tools/split_dataset.py data/tiles --layout folder --protocol fractions \\
        --fractions train=0.6 val=0.2 test=0.2 --groups data/tiles/near_duplicate_groups.json
"""

from __future__ import annotations

import argparse
import os
import sys

from mmdefect.command_line import add_dataset, one_line_errors
from mmdefect.extras import stop_without

stop_without('mm')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset(parser)
    parser.add_argument('--category', nargs='+', help='categories of mvtec or visa (default: all)')
    parser.add_argument(
        '--protocol',
        required=True,
        choices=['third', 'kshot', 'fractions', 'given'],
        help='third: 1/3 of each type trains, the rest tests; kshot: K of each type train; fractions: '
        'the same shares of each type; given: what the layout or --division says',
    )
    parser.add_argument('--division', help='of VisA: 1cls, 2cls_fewshot, 2cls_highshot or a CSV file (default: 1cls)')
    parser.add_argument('--k', type=int, help='kshot: training images of each type')
    parser.add_argument('--val-shots', type=int, default=1, help='kshot: validation images of each type (default: 1)')
    parser.add_argument(
        '--outer-val-shots',
        type=int,
        default=0,
        help='kshot: images of each type for the outer level of bi-level learning (default: 0)',
    )
    parser.add_argument(
        '--clean-train-fraction',
        type=float,
        default=0.5,
        help='kshot: share of clean images that does not test, where folders do not say it (default: 0.5)',
    )
    parser.add_argument(
        '--val-fraction',
        type=float,
        default=0.2,
        help='third, given: share of the training images used for validation (default: 0.2)',
    )
    parser.add_argument(
        '--outer-val-fraction',
        type=float,
        default=0.0,
        help='third, given: share of the training images for the outer level (default: 0)',
    )
    parser.add_argument(
        '--fractions',
        nargs='+',
        metavar='SPLIT=SHARE',
        default=['train=0.6', 'val=0.2', 'test=0.2'],
        help='fractions: shares that add up to 1 (default: train=0.6 val=0.2 test=0.2)',
    )
    parser.add_argument(
        '--first',
        action='store_true',
        help='third, kshot: take the first images by file name instead of drawing by seed',
    )
    parser.add_argument('--seed', type=int, default=0, help='another seed draws other images (default: 0)')
    parser.add_argument('--groups', metavar='FILE', help='JSON list of lists of images that must stay on one side')
    parser.add_argument(
        '--keep-duplicates-together',
        action='store_true',
        help='treat files of equal content as one group instead of stopping',
    )
    parser.add_argument('--out', help='file to write (default: DATA_ROOT/splits.json)')
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    args = parser.parse_args()
    if args.protocol == 'kshot' and args.k is None:
        parser.error('--protocol kshot needs --k')
    return args


def make_protocol(args: argparse.Namespace):
    from mmdefect.datasets.protocols import Fractions, Given, KShot, Third

    if args.protocol == 'third':
        return Third(args.val_fraction, args.outer_val_fraction, args.first)
    if args.protocol == 'given':
        return Given(args.val_fraction, args.outer_val_fraction)
    if args.protocol == 'kshot':
        return KShot(args.k, args.val_shots, args.outer_val_shots, args.clean_train_fraction, args.first)
    shares = dict(item.split('=', 1) if '=' in item else (item, 'nan') for item in args.fractions)
    return Fractions({name: float(share) for name, share in shares.items()})


def print_counts(split) -> None:
    from rich.console import Console
    from rich.table import Table

    counts = split.counts()
    table = Table(title=f'{split.protocol["name"]}, seed {split.seed}')
    table.add_column('type')
    for name in counts:
        table.add_column(name, justify='right')
    for defect_type in sorted({t for by_type in counts.values() for t in by_type}):
        table.add_row(defect_type, *(str(by_type.get(defect_type, 0)) for by_type in counts.values()))
    table.add_section()
    table.add_row('all', *(str(sum(by_type.values())) for by_type in counts.values()))
    Console().print(table)


@one_line_errors(ValueError, FileExistsError, PermissionError)
def main() -> int:
    args = parse_args()
    out = args.out or os.path.join(args.data_root, 'splits.json')
    import mmdefect.registration  # noqa: F401
    from mmdefect.datasets.layouts import build_layout
    from mmdefect.datasets.splits import split_dataset

    named = {key: value for key in ('category', 'division') if (value := getattr(args, key))}
    options = dict(args.dataset_options, **named)
    dataset = build_layout(args.layout, args.data_root, **options)
    split = split_dataset(
        dataset, make_protocol(args), out, args.seed, args.groups, args.keep_duplicates_together, args.overwrite
    )
    print_counts(split)
    for defect_type in split.types_without_training():
        print(f'warning: no training image of {defect_type}: it has too few images for this protocol.')
    if 'left_out' in split.notes:
        what = 'images that no division names' if args.protocol == 'given' else 'near duplicates of k-shot images'
        print(f'left out: {len(split.notes["left_out"])} {what}.')
    print(f'written: {out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
