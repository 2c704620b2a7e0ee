"""Divide a data set: deterministic, seeded, stratified by defect type, near duplicates on one side.

Four protocols: :class:`Given`, what the layout says; :class:`Fractions` of every type; :class:`KShot` images of every
type for training; and :class:`Third`, one third of the defect images for training and two thirds for testing, as
papers on few-shot defect generation do. Images are sampled in the order of a hash of seed and relative path, which
depends neither on the file system nor on a random-number library.

Splits are named ``train``, ``outer_val`` (the outer level of bi-level learning), ``val`` (selection) and ``test``.
:func:`split_outer_val` takes ``outer_val`` out of a training split; :func:`split_fewer` makes training splits with
fewer defective images, one inside the other, for learning curves.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mmdefect.datasets.file_facts import find_hashes
from mmdefect.datasets.groups import Unit, make_units, read_groups
from mmdefect.datasets.masks import IGNORE, read_label
from mmdefect.datasets.near_duplicates import exact_duplicates
from mmdefect.datasets.protocols import Fractions, Given, KShot, Third
from mmdefect.datasets.samples import GOOD, UNKNOWN, Sample, relative_path
from mmdefect.datasets.split_file import Split, SplitEntry, check_new, check_no_overlap, read_split, write_split


def split_dataset(
    dataset,
    protocol: Fractions | Given | KShot | Third,
    out: str | os.PathLike,
    seed: int = 0,
    group_file: str | None = None,
    keep_duplicates_together: bool = False,
    overwrite: bool = False,
) -> Split:
    """Divide every image of a data set and write the split file.

    Args:
        dataset: a :class:`~mmdefect.datasets.base.DefectDataset`; it may be built with ``lazy_init=True``.
        protocol: how many images of each type go where.
        out: the JSON file to write;
        seed: another seed samples other images.
        group_file: JSON list of lists of images that stay on one side.
        keep_duplicates_together: treat files of equal content as a group instead of raising.
        overwrite: replace a file that is there.
    """
    check_new([out], overwrite)
    samples, groups = _samples_and_groups(dataset, group_file)
    notes = {'dataset': type(dataset).__name__, **dataset.split_notes()}
    if group_file:
        notes['group_file'] = os.path.basename(group_file)
    split = make_split(samples, dataset.data_root, protocol, seed, groups, keep_duplicates_together, notes)
    write_split(split, out, overwrite)
    return split


def split_outer_val(
    dataset,
    share: float,
    out: str,
    seed: int = 0,
    split_file: str | None = None,
    group_file: str | None = None,
    overwrite: bool = False,
) -> Split:
    """Divide the training images into ``train`` and ``outer_val``, the same share of every type; other splits stay.

    Args:
        dataset, out, seed, overwrite: see :func:`split_dataset`.
        share: of the training images that go to ``outer_val``.
        split_file: division whose ``train`` is divided; without it, the folders of the layout are.
        group_file: JSON list of lists of images that stay on one side; those that are not in training do not matter.
    """
    if not 0 < share < 1:
        raise ValueError(f'`share` must be between 0 and 1, got {share}; it is a share of the training images.')
    check_new([out], overwrite)
    root = dataset.data_root
    samples, groups = _samples_and_groups(dataset, group_file)
    by_path = {relative_path(s.img_path, root): s for s in samples}
    before = None if split_file is None else read_split(split_file)
    if before is None:
        side = {name: s.own_split for name, s in by_path.items() if s.own_split}
    else:
        side = {e.image: name for name, entries in before.splits.items() for e in entries}
    training = {name: s for name, s in by_path.items() if side.get(name) == 'train'}
    if not training or 'outer_val' in side.values():
        found = sorted(set(side.values()))
        raise ValueError(f'{split_file or root} must have a training split and no outer_val yet, got {found}.')
    groups = within(groups, training)
    protocol = Fractions(dict(train=1 - share, outer_val=share))
    splits = dict(make_split(list(training.values()), root, protocol, seed, groups, True).splits)
    if before is not None:
        splits |= {name: entries for name, entries in before.splits.items() if name != 'train'}
    else:
        for name in sorted(set(side.values()) - {'train'}):
            others = [s for image, s in by_path.items() if side.get(image) == name]
            splits[name] = make_split(others, root, Fractions({'test': 1.0}), seed, (), True).splits['test']
    notes = dict(before.notes if before else {}, dataset=type(dataset).__name__, **dataset.split_notes())
    made_of = dict(name='outer_val', share=share, of=before.protocol if before else 'folders of the layout')
    split = Split(splits, made_of, seed, notes)
    write_split(split, out, overwrite)
    return split


def split_fewer(
    split_file: str,
    shots: Sequence[int],
    out: str,
    seed: int = 0,
    group_file: str | None = None,
    overwrite: bool = False,
    spare_to: str | None = None,
) -> dict[int, Split]:
    """Keep some defective training images of each type, all clean ones, and every other split as it is.

    The images of fewer shots are among those of more shots of the same seed. Exposures of one part bring little new: an
    image is taken from every group before a second one of any.

    Args:
        split_file: the division to start from.
        shots: images of each defect type; a type that has fewer keeps all.
        out: files to write, with ``{shots}`` in place of the number; none is written if one of them may not be.
        seed: another seed samples other images.
        group_file: images that show one part, see :func:`~mmdefect.datasets.groups.read_groups`.
        overwrite: replace files that are there.
        spare_to: split that gets the defective training images that are not kept, but for those of a part that is
            also kept; they make a larger validation set to choose settings on. None leaves them out.

    Returns:
        The divisions that were written, by number of shots.
    """
    if not shots or min(shots) < 1:
        raise ValueError(f'`shots` must be numbers of images from 1 on, got {list(shots)}.')
    if '{shots}' not in out:
        raise ValueError(f'`out` must hold {{shots}} in place of the number, got {out!r}.')
    paths = {number: out.replace('{shots}', str(number)) for number in shots}
    check_new(paths.values(), overwrite)
    before = read_split(split_file)
    training = before.entries_of('train', split_file)
    if spare_to is not None and spare_to not in set(before.splits) - {'train', 'test'}:
        others = ', '.join(sorted(set(before.splits) - {'train', 'test'}))
        raise ValueError(f'`spare_to` must be another split than train and test, one of {others}, got {spare_to!r}.')
    groups: dict[str, int] = {}
    if group_file is not None:
        images = [entry.image for entries in before.splits.values() for entry in entries]
        for number, group in enumerate(read_groups(group_file, images, split_file)):
            groups |= dict.fromkeys(group, number)
    ranks = _ranks([entry for entry in training if not entry.is_clean], seed, groups)
    if not ranks:
        raise ValueError(f'the training split of {split_file} must hold defective images, but holds only clean ones.')
    made = {}
    for number, path in paths.items():
        kept = [entry for entry in training if entry.is_clean or ranks[entry.image] < number]
        protocol = dict(name='fewer_shots', shots=number, of=before.protocol)
        splits = {**before.splits, 'train': kept}
        if spare_to is not None:
            protocol['spare_to'] = spare_to
            images = {entry.image for entry in kept}
            parts = {groups[image] for image in images if image in groups}
            spare = [e for e in training if e.image not in images and groups.get(e.image) not in parts]
            splits[spare_to] = [*splits[spare_to], *spare]
        made[number] = replace(before, splits=splits, protocol=protocol, seed=seed)
        write_split(made[number], path, overwrite)
    return made


def make_split(
    samples: Sequence[Sample],
    root: str,
    protocol: Fractions | Given | KShot | Third,
    seed: int = 0,
    groups: Sequence[Sequence[str]] = (),
    keep_duplicates_together: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> Split:
    """Divide ``samples`` and record the content hash of every image.

    Args:
        samples: images with known defect types (see :func:`find_types`).
        root: folder the paths in the result are relative to.
        protocol, seed, keep_duplicates_together: see :func:`split_dataset`.
        groups: relative paths of images that must stay on one side, for example exposures of one part.
        notes: recorded in the result.

    Returns:
        The division; ``notes['left_out']`` lists the near duplicates of k-shot training images that are in no split.
    """
    hashes = find_hashes([s.img_path for s in samples], 'reading images')
    if keep_duplicates_together:
        names = [relative_path(path, root) for path in hashes]
        groups = [*groups, *([names[i] for i in group] for group in exact_duplicates(list(hashes.values())))]
    sides, left_out = assign(samples, root, protocol, seed, groups)
    splits = {name: [SplitEntry.of(s, root, hashes[s.img_path]) for s in side] for name, side in sides.items()}
    notes = dict(notes or {})
    if left_out:
        notes['left_out'] = [relative_path(s.img_path, root) for s in left_out]
    split = Split(splits, dict(name=protocol.name, **asdict(protocol)), seed, notes)
    check_no_overlap(split)
    return split


def assign(
    samples: Sequence[Sample],
    root: str,
    protocol: Fractions | Given | KShot | Third,
    seed: int = 0,
    groups: Sequence[Sequence[str]] = (),
) -> tuple[dict[str, list[Sample]], list[Sample]]:
    """Divide ``samples`` without reading any file.

    When the training folder of the layout holds only clean images (MVTec AD, VisA), :class:`KShot` and :class:`Third`
    leave every clean image on the side its folder says; otherwise clean images are divided like a defect type.
    :class:`Given` leaves every image there.

    Returns:
        The images of every split, sorted by relative path, and those left out by :class:`KShot` and :class:`Given`.
    """
    if not samples:
        raise ValueError('there must be at least one image to divide, got none; correct the folder.')

    def order(unit: Unit) -> str:
        return unit.key if protocol.draws_first else hashlib.sha256(f'{seed}\n{unit.key}'.encode()).hexdigest()

    strata: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    training = [s for s in samples if s.own_split == 'train']
    given = isinstance(protocol, Given)
    if given and {s.own_split for s in samples} & {'train', 'test'} != {'train', 'test'}:
        raise ValueError(
            f'the layout of {root} must say itself who trains and who tests, but it does not; name a division of VisA '
            '(--division 2cls_highshot), or take another protocol.'
        )
    keep_sides = protocol.keeps_clean_sides and training and all(s.is_clean for s in training)
    for unit in sorted(make_units(samples, root, groups), key=order):
        kept = (given or (keep_sides and unit.is_clean)) and unit.own_split in ('train', 'test')
        strata[unit.stratum, unit.own_split if kept else ''].append(unit)
    sides: dict[str, list[Sample]] = {name: [] for name in protocol.split_names}
    left_out: list[Sample] = []
    for (_, side), units in sorted(strata.items()):
        placed, out = protocol.place(units, side or None)
        left_out += out
        for name, images in placed.items():
            sides[name] += images

    def by_path(images: list[Sample]) -> list[Sample]:
        return sorted(images, key=lambda s: relative_path(s.img_path, root))

    return {name: by_path(side) for name, side in sides.items()}, by_path(left_out)


def find_types(samples: Sequence[Sample], classes: Sequence[str]) -> list[Sample]:
    """Replace ``'unknown'`` defect types by what the masks show.

    Returns:
        The samples with type ``'good'`` for an all-zero mask, else the names of its classes joined with ``'+'``.
    """

    def resolve(sample: Sample) -> Sample:
        path = sample.seg_map_path
        if sample.defect_type != UNKNOWN:
            return sample
        if path is None:
            return replace(sample, defect_type=GOOD)
        if not os.path.isfile(path):
            raise ValueError(
                f'the mask {path} does not exist; restore it, or take its image {sample.img_path} out of the data set.'
            )
        label = read_label(path, sample.mask_encoding, len(classes), sample.class_id, sample.palette)
        found = [classes[v] for v in np.flatnonzero(np.bincount(label.ravel(), minlength=256)) if v not in (0, IGNORE)]
        return replace(sample, defect_type='+'.join(found) or GOOD)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(resolve, samples))


def within(groups: Sequence[Sequence[str]], images) -> list[list[str]]:
    """Return what of each group is among ``images``, if that is more than one image."""
    return [kept for group in groups if len(kept := [image for image in group if image in images]) > 1]


def _samples_and_groups(dataset, group_file: str | None) -> tuple[list[Sample], list[list[str]]]:
    """List the images of a data set with known types, and the groups that a file names among them."""
    samples = find_types(dataset.scan(), dataset.METAINFO.get('classes') or dataset.metainfo['classes'])
    if not group_file:
        return samples, []
    names = [relative_path(s.img_path, dataset.data_root) for s in samples]
    return samples, read_groups(group_file, names, dataset.data_root)


def _ranks(entries: Sequence[SplitEntry], seed: int, groups: dict[str, int]) -> dict[str, int]:
    """Return the place of every defective image in the sampled order of its type."""
    by_type: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        by_type[entry.type].append(entry.image)
    ranks: dict[str, int] = {}
    for position, name in enumerate(sorted(by_type)):
        images = sorted(by_type[name])
        seen: dict[int | str, int] = defaultdict(int)
        keys = {}
        for index in np.random.default_rng([seed, position]).permutation(len(images)):
            image = images[index]
            group = groups.get(image, image)
            keys[image] = (
                seen[group],
                len(keys),
            )  # the n-th image of its group comes behind the first ones of all groups
            seen[group] += 1
        ranks |= {image: rank for rank, image in enumerate(sorted(keys, key=keys.__getitem__))}
    return ranks
