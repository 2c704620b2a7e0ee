"""Divide a data set: deterministic, seeded, stratified by defect type, near duplicates on one side.

Three protocols: :class:`Fractions` of every type, :class:`KShot` images of every type for training, and
:class:`Third`, one third of the defect images for training and two thirds for testing, as papers on few-shot defect
generation do. The order in which images are drawn is the order of a hash of seed and relative path: it depends
neither on the file system nor on a random-number library.

Splits are named ``train``, ``outer_val`` (the outer level of bi-level learning), ``val`` (selection) and ``test``.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mmdefect.datasets.file_facts import find_facts
from mmdefect.datasets.groups import Unit, duplicate_groups, make_units, read_groups
from mmdefect.datasets.masks import IGNORE, decode_mask, label_from_raw
from mmdefect.datasets.protocols import Fractions, KShot, Third
from mmdefect.datasets.samples import GOOD, UNKNOWN, Sample, relative_path
from mmdefect.datasets.split_file import Split, SplitEntry, check_no_overlap, read_split, write_split

__all__ = [
    'Fractions',
    'KShot',
    'Split',
    'SplitEntry',
    'Third',
    'assign',
    'find_types',
    'make_split',
    'read_split',
    'split_dataset',
    'types_without_training',
    'write_split',
]


def make_split(
    samples: Sequence[Sample],
    root: str,
    protocol: Fractions | KShot | Third,
    seed: int = 0,
    groups: Sequence[Sequence[str]] = (),
    keep_duplicates_together: bool = False,
    notes: Mapping[str, Any] | None = None,
    num_threads: int = 8,
    progress: bool | None = None,
) -> Split:
    """Divide ``samples`` and record the content hash of every image.

    Args:
        samples: images with known defect types (see :func:`find_types`).
        root: folder the paths in the result are relative to.
        protocol: how many images of each type go where.
        seed: another seed draws other images.
        groups: relative paths of images that must stay on one side, for example exposures of one part.
        keep_duplicates_together: treat files of equal content as a group instead of raising.
        notes: recorded in the result.
        num_threads: files read at a time.
        progress: whether to show a progress bar; ``None`` decides by the number of files.

    Returns:
        The division; ``notes['left_out']`` lists the near duplicates of k-shot training images that are in no split.

    Raises:
        ValueError: if a type has too few images for the protocol, or two splits hold the same content.
    """
    paths = [s.img_path for s in samples]
    facts = find_facts('sha256', paths, num_threads, progress, 'reading images')
    for fact in facts.values():
        if isinstance(fact, ValueError):
            raise fact
    if keep_duplicates_together:
        groups = [*groups, *duplicate_groups({relative_path(p, root): h for p, h in facts.items()})]
    sides, left_out = assign(samples, root, protocol, seed, groups)
    splits = {
        name: [
            SplitEntry(
                relative_path(s.img_path, root),
                None if s.seg_map_path is None else relative_path(s.seg_map_path, root),
                s.stratum,
                facts[s.img_path],
            )
            for s in side
        ]
        for name, side in sides.items()
    }
    notes = dict(notes or {})
    if left_out:
        notes['left_out'] = [relative_path(s.img_path, root) for s in left_out]
    split = Split(splits, dict(name=protocol.name, **asdict(protocol)), seed, notes)
    check_no_overlap(split)
    return split


def split_dataset(
    dataset,
    protocol: Fractions | KShot | Third,
    out: str | os.PathLike,
    seed: int = 0,
    group_file: str | None = None,
    keep_duplicates_together: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Split:
    """Divide every image of a data set and write the split file.

    Args:
        dataset: a :class:`~mmdefect.datasets.base.DefectDataset`; it may be built with ``lazy_init=True``.
        protocol: how many images of each type go where.
        out: the JSON file to write.
        seed: another seed draws other images.
        group_file: JSON list of lists of images that stay on one side.
        keep_duplicates_together: treat files of equal content as a group instead of raising.
        overwrite: whether ``out`` may exist.
        progress: whether to show a progress bar; ``None`` decides by the number of files.

    Returns:
        The division that was written.

    Raises:
        FileExistsError: if ``out`` exists and may not be overwritten.
        ValueError: see :func:`make_split`.
    """
    if os.path.exists(out) and not overwrite:
        raise FileExistsError(f'{out} exists and would be lost; name another file or allow it with --overwrite.')
    root = dataset.data_root
    samples = find_types(dataset.scan(), dataset.METAINFO.get('classes') or dataset.metainfo['classes'])
    groups = read_groups(group_file, samples, root) if group_file else ()
    notes = {'dataset': type(dataset).__name__, **dataset.split_notes()}
    if group_file:
        notes['group_file'] = os.path.basename(group_file)
    split = make_split(samples, root, protocol, seed, groups, keep_duplicates_together, notes, progress=progress)
    write_split(split, out, overwrite)
    return split


def assign(
    samples: Sequence[Sample],
    root: str,
    protocol: Fractions | KShot | Third,
    seed: int = 0,
    groups: Sequence[Sequence[str]] = (),
) -> tuple[dict[str, list[Sample]], list[Sample]]:
    """Divide ``samples`` without reading any file.

    When the training folder of the layout holds only clean images (MVTec AD, VisA), :class:`KShot` and :class:`Third`
    leave every clean image on the side its folder says; otherwise clean images are divided like a defect type.

    Returns:
        The images of every split, sorted by relative path, and the images left out by :class:`KShot`.

    Raises:
        ValueError: if there is no image, or a type has too few for the protocol.
    """
    if not samples:
        raise ValueError('there must be at least one image to divide, got none; correct the folder.')
    units = make_units(samples, root, groups)
    order = {id(unit): (unit.key if protocol.draws_first else _hash(seed, unit.key)) for unit in units}
    strata: dict[tuple[str, str | None], list[Unit]] = defaultdict(list)
    keep_sides = protocol.keeps_clean_sides and _clean_training_folder(samples)
    for unit in sorted(units, key=lambda u: order[id(u)]):
        side = unit.own_split if keep_sides and unit.is_clean and unit.own_split in ('train', 'test') else None
        strata[unit.stratum, side].append(unit)
    sides: dict[str, list[Sample]] = {name: [] for name in protocol.split_names}
    left_out: list[Sample] = []
    for (_, side), members in sorted(strata.items(), key=lambda item: (item[0][0], item[0][1] or '')):
        placed, out = protocol.place(members, side)
        left_out += out
        for name, images in placed.items():
            sides[name] += images
    by_path = {s.img_path: relative_path(s.img_path, root) for s in samples}
    return (
        {name: sorted(side, key=lambda s: by_path[s.img_path]) for name, side in sides.items()},
        sorted(left_out, key=lambda s: by_path[s.img_path]),
    )


def find_types(samples: Sequence[Sample], classes: Sequence[str], num_threads: int = 8) -> list[Sample]:
    """Replace ``'unknown'`` defect types by what the masks show.

    Args:
        samples: images; those with a known type are returned as they are.
        classes: class names, normal first.
        num_threads: masks read at a time.

    Returns:
        The samples with type ``'good'`` for an all-zero mask, else the names of its classes joined with ``'+'``.

    Raises:
        ValueError: if a mask cannot be read or holds values outside the classes.
    """

    def resolve(sample: Sample) -> Sample:
        if sample.defect_type != UNKNOWN:
            return sample
        if sample.seg_map_path is None:
            return replace(sample, defect_type=GOOD)
        path = sample.seg_map_path
        if not os.path.isfile(path):
            raise ValueError(
                f'the mask {path} does not exist; restore it, or take its image {sample.img_path} out of the data set.'
            )
        with open(path, 'rb') as stream:
            raw = decode_mask(stream.read(), sample.mask_encoding, path)
        label = label_from_raw(raw, sample.mask_encoding, path, len(classes), sample.class_id, sample.palette)
        found = [classes[v] for v in np.flatnonzero(np.bincount(label.ravel(), minlength=256)) if v not in (0, IGNORE)]
        return replace(sample, defect_type='+'.join(found) or GOOD)

    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(resolve, samples))


def types_without_training(split: Split) -> list[str]:
    """Return the defect types that have test images but no training image."""
    counts = split.counts()
    everywhere = Counter(t for by_type in counts.values() for t in by_type)
    return sorted(t for t in everywhere if t.split('/')[-1] != GOOD and t not in counts.get('train', {}))


def _clean_training_folder(samples: Sequence[Sample]) -> bool:
    training = [s for s in samples if s.own_split == 'train']
    return bool(training) and all(s.is_clean for s in training)


def _hash(seed: int, key: str) -> str:
    return hashlib.sha256(f'{seed}\n{key}'.encode()).hexdigest()
