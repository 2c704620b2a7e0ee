"""``generate.py pack``."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Write generated images as a data set that a config trains on (configs/_base_/datasets/generated.py).

From a relabelled folder: the accepted edits, with their new labels. The decisions in its review.csv count, and those of
--review, which beat them.

    python tools/generate.py pack work_dirs/relabelled --out data/generated/relabelled

With the labels of the sources, for comparison (the published setting; wrong wherever the edit changed a defect):

    python tools/generate.py pack --copy-labels --edits data/edits/img_dir --prefix new_ \\
        --sources data/wta/img_dir/train --labels data/wta/ann_dir/train --classes normal attached broken \\
        --out data/generated/copied
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('relabelled', nargs='?', type=Path, help='folder that relabel wrote')
    parser.add_argument('--out', type=Path, required=True, help='folder of the data set; must not exist')
    parser.add_argument('--review', type=Path, help='CSV of decisions (name, decision, corrected)')
    parser.add_argument('--copy-labels', action='store_true', help='take every edit, with the label of its source')
    parser.add_argument(
        '--only-accepted',
        action='store_true',
        help='with --copy-labels and a relabelled folder: only the edits that are accepted there',
    )
    parser.add_argument('--edits', type=Path, help='with --copy-labels, as for relabel')
    parser.add_argument('--sources', type=Path)
    parser.add_argument('--labels', type=Path)
    parser.add_argument('--prefix', default='')
    parser.add_argument('--classes', nargs='+')


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.pack import pack_copied, pack_relabelled
    from mmdefect.diffusion.progress import track

    if args.copy_labels:
        pairs, classes = _copied_pairs(args)
        packed = pack_copied(pairs, classes, args.out, track)
    else:
        if args.relabelled is None or args.edits is not None:
            raise ValueError('pack takes the folder that relabel wrote, or --copy-labels with --edits; see --help.')
        packed = pack_relabelled(args.relabelled, args.out, _decisions(args), track)
    by_reviewer = sum(image.entry['decided_by'] == 'reviewer' for image in packed.images)
    defective = sum(any(image.entry['defect_pixels'].values()) for image in packed.images)
    print(
        f'written: {len(packed.images)} images in {args.out}, {defective} with a defect, labels {packed.labels}, '
        f'{by_reviewer} decided by a reviewer'
    )


def _copied_pairs(args: argparse.Namespace) -> tuple[list, list[str]]:
    from mmdefect.diffusion.pack import choose, read_relabelled
    from mmdefect.diffusion.relabel_pairs import Pair, find_pairs

    if args.relabelled is not None:
        content = read_relabelled(args.relabelled)
        entries = content['entries']
        if args.only_accepted:
            entries = [entry for entry, *_ in choose(entries, _decisions(args))]
        pairs = [
            Pair(
                e['name'],
                Path(e['edit']),
                Path(e['source']),
                Path(e['source_label']) if e['source_label'] else None,
                Path(e['mask']) if e['mask'] else None,
                origin=e['origin'],
            )
            for e in entries
        ]
        return pairs, content['classes']
    if args.edits is None or not args.classes:
        raise ValueError('--copy-labels needs a relabelled folder, or --edits and --classes; see --help.')
    if args.only_accepted:
        raise ValueError('--only-accepted needs the folder that relabel wrote: it holds the verdicts.')
    return find_pairs(args.edits, args.sources, args.labels, args.prefix), args.classes


def _decisions(args: argparse.Namespace) -> dict:
    from mmdefect.diffusion.pack import read_relabelled
    from mmdefect.diffusion.review import read_decisions

    names = {entry['name'] for entry in read_relabelled(args.relabelled)['entries']}
    decisions = {}
    table = args.relabelled / 'review.csv'
    if table.is_file():
        decisions.update(read_decisions(table, names))
    if args.review is not None:
        decisions.update(
            {
                k: v
                for k, v in read_decisions(args.review, names).items()
                if v.accepted is not None or v.corrected is not None
            }
        )
    return decisions
