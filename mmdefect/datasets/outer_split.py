"""Take an outer-validation split out of the training split and leave the others as they are."""

from __future__ import annotations

import os

from mmdefect.datasets.groups import read_groups
from mmdefect.datasets.protocols import Fractions
from mmdefect.datasets.samples import relative_path
from mmdefect.datasets.split_file import Split, check_no_overlap, read_split, write_split
from mmdefect.datasets.splits import find_types, make_split


def split_outer_val(
    dataset,
    share: float,
    out: str,
    seed: int = 0,
    split_file: str | None = None,
    group_file: str | None = None,
    overwrite: bool = False,
) -> Split:
    """Divide the training images into ``train`` and ``outer_val``, the same share of every type, and write the split file.

    Args:
        dataset: a :class:`~mmdefect.datasets.base.DefectDataset`; it may be built with ``lazy_init=True``.
        share: of the training images that go to ``outer_val``.
        out: the JSON file to write.
        seed: another seed draws other images.
        split_file: division whose ``train`` is divided; without it, the folders of the layout are.
        group_file: JSON list of lists of images that stay on one side; those that are not in training do not matter.
        overwrite: whether ``out`` may exist.

    Returns:
        The division that was written.

    Raises:
        FileExistsError: if ``out`` exists and may not be overwritten.
        ValueError: if there is no training split, or the share leaves one side empty.
    """
    if not 0 < share < 1:
        raise ValueError(f'`share` must be between 0 and 1, got {share}; it is a share of the training images.')
    if os.path.exists(out) and not overwrite:
        raise FileExistsError(f'{out} exists and would be lost; name another file or allow it with --overwrite.')
    root = dataset.data_root
    samples = find_types(dataset.scan(), dataset.METAINFO.get('classes') or dataset.metainfo['classes'])
    groups = read_groups(group_file, samples, root) if group_file else ()
    before = None if split_file is None else read_split(split_file)
    side = _sides(samples, root) if before is None else {e.image: n for n, es in before.splits.items() for e in es}
    training = [s for s in samples if side.get(relative_path(s.img_path, root)) == 'train']
    if not training or 'outer_val' in side.values():
        raise ValueError(
            f'{split_file or root} must have a training split and no outer_val yet, got '
            f'{sorted(set(filter(None, side.values())))}.'
        )
    names = {relative_path(s.img_path, root) for s in training}
    groups = [kept for kept in ([n for n in group if n in names] for group in groups) if len(kept) > 1]
    made = make_split(training, root, Fractions(dict(train=1 - share, outer_val=share)), seed, groups, True)
    splits = dict(made.splits)
    if before is not None:
        splits |= {name: entries for name, entries in before.splits.items() if name != 'train'}
    else:
        for name in sorted({n for n in side.values() if n and n != 'train'}):
            others = [s for s in samples if side[relative_path(s.img_path, root)] == name]
            splits[name] = make_split(others, root, Fractions({'test': 1.0}), seed, (), True).splits['test']
    protocol = dict(name='outer_val', share=share, of=before.protocol if before else 'folders of the layout')
    split = Split(
        splits,
        protocol,
        seed,
        dict(before.notes if before else {}, dataset=type(dataset).__name__, **dataset.split_notes()),
    )
    check_no_overlap(split)
    write_split(split, out, overwrite)
    return split


def _sides(samples, root: str) -> dict[str, str | None]:
    return {relative_path(s.img_path, root): s.own_split for s in samples}
