"""``generate.py support``: choose the few labelled images that a defect type is learned from."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from mmdefect.diffusion.support import Candidate, check_held_out, choose_shots, write_support

#: Splits that numbers are measured on.
EVALUATION = ('val', 'test', 'outer_val')


def add_support(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('data_root', help='folder of the data set')
    parser.add_argument('--layout', required=True, help='mvtec, visa, wta, combined, folder, or a registered data set')
    parser.add_argument('--category', nargs='+', help='categories of mvtec or visa (default: all)')
    parser.add_argument('--split-file', type=Path, help='JSON of tools/split_dataset.py (default: the folders say it)')
    parser.add_argument('--split', default='train', help='split that shots come from; default train')
    parser.add_argument(
        '--from-test',
        action='store_true',
        help='allow an evaluation split; its shots are taken out of it, in the split file',
    )
    parser.add_argument('--k', type=int, default=3, help='shots of each type; default 3')
    parser.add_argument('--types', nargs='+', help='only these defect types')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, required=True, help='folder of the support set; must not exist')


def run_support(args: argparse.Namespace) -> None:
    """Choose k images of each defect type and copy them with their masks into a support set.

    Shots come from the training split. Where all defects lie in a test split, --from-test takes shots there and moves
    them to the split `support` of the split file, so that no later evaluation sees them.

        python tools/generate.py support data/mvtec_ad --layout mvtec --category bottle --split-file splits.json \\
            --k 3 --out support/bottle
        python tools/generate.py support data/wta --layout wta --k 3 --out support/wta
    """
    import mmdefect.registration  # noqa: F401

    support = make_support(
        args.data_root,
        args.layout,
        args.out,
        args.k,
        args.seed,
        args.split,
        args.split_file,
        args.from_test,
        args.types,
        args.category,
    )
    counts = {t: sum(s.type == t for s in support.shots) for t in support.types}
    print(f'written: {args.out}: ' + ', '.join(f'{count} {name}' for name, count in counts.items()))
    if args.from_test and args.split != 'train':
        print(f'moved out of {args.split!r} in {args.split_file}: make numbers again that were measured on it.')


def make_support(
    data_root: str,
    layout: str,
    out: Path,
    k: int = 3,
    seed: int = 0,
    split: str = 'train',
    split_file: Path | None = None,
    from_test: bool = False,
    types: list[str] | None = None,
    category: list[str] | None = None,
):
    """Choose shots and write the support set.

    Args:
        data_root: folder of the data set.
        layout: its layout.
        out: folder of the support set.
        k: shots of each type.
        seed: of the choice.
        split: where shots come from.
        split_file: division; ``None``: the folders of the layout.
        from_test: allow an evaluation split; the split file then loses the shots.
        types: only these types.
        category: products of the layout.

    Returns:
        The :class:`~mmdefect.diffusion.support.SupportSet`.

    Raises:
        ValueError: if the shots are evaluated on, or there are too few.
    """
    if split in EVALUATION and not from_test:
        raise ValueError(
            f'shots must come from a training split, got {split!r}; if all defects lie there, --from-test '
            'takes them out of every later evaluation.'
        )
    if split in EVALUATION and split_file is None:
        raise ValueError(
            '`--from-test` must have a split file to write into; make one with tools/split_dataset.py and '
            'name it with --split-file.'
        )
    candidates, labels = _find_candidates(data_root, layout, split, split_file, category)
    chosen = choose_shots(candidates, k, seed, types)
    held_out = _evaluation_hashes(data_root, layout, split_file, category, split if from_test else None)
    check_held_out(chosen, held_out)
    masks = [labels(candidate) for candidate in chosen]
    origin = dict(data_root=str(data_root), layout=layout, split=split, split_file=split_file and str(split_file))
    support = write_support(out, chosen, masks, seed, origin)
    if split in EVALUATION:
        take_out(split_file, split, {c.sha256 for c in chosen}, str(out))
    return support


def take_out(split_file: Path, split: str, hashes: set[str], note: str) -> None:
    """Move images from a split to the split ``support``, also copies of the same content."""
    from mmdefect.datasets.split_file import read_split, write_split

    division = read_split(split_file)
    splits = {name: list(entries) for name, entries in division.splits.items()}
    moved = [e for e in splits[split] if e.sha256 in hashes]
    splits[split] = [e for e in splits[split] if e.sha256 not in hashes]
    splits['support'] = [*splits.get('support', []), *moved]
    notes = dict(division.notes)
    notes['support'] = [
        *notes.get('support', []),
        dict(taken_from=split, images=[e.image for e in moved], used_by=note),
    ]
    write_split(dataclasses.replace(division, splits=splits, notes=notes), split_file, overwrite=True)


def _build(data_root: str, layout: str, split: str | None, split_file: Path | None, category: list[str] | None):
    from mmdefect.datasets.layouts import build_layout

    options = dict(category=category) if category else {}
    if layout in ('mvtec', 'visa'):
        options['classes'] = 'types'
    if split_file is not None:
        options['split_file'] = str(split_file)
    dataset = build_layout(layout, data_root, split=split, **options)
    dataset.full_init()
    return dataset


def _find_candidates(data_root: str, layout: str, split: str, split_file: Path | None, category: list[str] | None):
    """Return what shows a defect, and a function that reads the mask of a candidate."""
    from mmdefect.datasets.file_facts import find_facts
    from mmdefect.datasets.presence import class_presence
    from mmdefect.datasets.samples import relative_path

    dataset = _build(data_root, layout, split, split_file, category)
    names = dataset.metainfo['classes']
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    shown = class_presence(dataset)
    hashes = find_facts('sha256', [info['img_path'] for info in infos])
    candidates, by_source = [], {}
    for info, classes in zip(infos, shown, strict=True):
        source = relative_path(info['img_path'], data_root)
        by_source[source] = info
        candidates += [
            Candidate(names[c], c, info['img_path'], source, hashes[info['img_path']])
            for c in sorted(classes)
            if 0 < c < len(names)
        ]

    def read(candidate: Candidate) -> np.ndarray:
        from mmdefect.datasets.transforms.loading import LoadDefectAnnotations

        return LoadDefectAnnotations()(dict(by_source[candidate.source]))['gt_seg_map'] == candidate.class_id

    return candidates, read


def _evaluation_hashes(
    data_root: str, layout: str, split_file: Path | None, category: list[str] | None, allowed: str | None
) -> dict[str, dict[str, str]]:
    """Return, for each evaluation split but the allowed one, the path of each image by its hash."""
    if split_file is not None:
        from mmdefect.datasets.split_file import read_split

        splits = read_split(split_file).splits
        return {
            name: {e.sha256: e.image for e in splits[name]} for name in EVALUATION if name in splits and name != allowed
        }
    from mmdefect.datasets.file_facts import find_facts

    dataset = _build(data_root, layout, None, None, category)
    found = {name: [s.img_path for s in dataset.scan() if s.own_split == name] for name in EVALUATION}
    return {
        name: {digest: path for path, digest in find_facts('sha256', paths).items()}
        for name, paths in found.items()
        if paths
    }
