"""Divide a surveyed folder: by its own folders where they allow training, else by shares of every type."""

from __future__ import annotations

from collections.abc import Sequence

from mmdefect.datasets.folder_labels import NOTE
from mmdefect.datasets.samples import GOOD, Sample, relative_path
from mmdefect.datasets.split_file import Split, SplitEntry, check_no_overlap
from mmdefect.datasets.splits import Fractions, assign
from mmdefect.datasets.survey import Survey

DEFAULT_FRACTIONS = {'train': 0.6, 'val': 0.2, 'test': 0.2}
#: Share of a given training folder that becomes a missing validation or test split.
CARVED = 0.2


def plan_split(
    survey: Survey, seed: int = 0, fractions: Sequence[float] | None = None, groups: Sequence[Sequence[str]] = ()
) -> Split:
    """Divide the images of a survey; see :func:`mmdefect.datasets.project.init_project`.

    Raises:
        ValueError: if a split would be empty or without defects, or two splits share a content.
    """
    groups = [*survey.census.exact_duplicates, *groups]
    if fractions is None and _own_split_is_usable(survey.samples):
        sides, protocol = _complete_own_split(survey, seed, groups)
    else:
        shares = DEFAULT_FRACTIONS if fractions is None else dict(zip(DEFAULT_FRACTIONS, fractions, strict=True))
        sides = assign(survey.samples, survey.root, Fractions(shares), seed, groups)[0]
        protocol = {'name': 'fractions', 'fractions': shares}
    for name in DEFAULT_FRACTIONS:
        _check_side(name, sides.get(name, []), len(survey.samples))
    entries = {
        name: [_entry(s, survey) for s in sorted(side, key=lambda s: s.img_path)] for name, side in sides.items()
    }
    split = Split(entries, protocol, seed, {NOTE: survey.description.to_dict()})
    try:
        check_no_overlap(split, survey.root)
    except ValueError as err:
        raise ValueError(f'{err} A new division with --split 0.6 0.2 0.2 keeps equal files on one side.') from err
    return split


def _own_split_is_usable(samples: Sequence[Sample]) -> bool:
    """Tell whether the folders give every image a split, with defects to train on and images to judge by."""
    sides = {s.own_split for s in samples}
    return (
        None not in sides
        and 'train' in sides
        and len(sides) > 1
        and any(s.own_split == 'train' and s.defect_type != GOOD for s in samples)
    )


def _complete_own_split(
    survey: Survey, seed: int, groups: Sequence[Sequence[str]]
) -> tuple[dict[str, list[Sample]], dict]:
    """Take the split of the folders; what it lacks of val and test is drawn from its training images."""
    sides = {name: [s for s in survey.samples if s.own_split == name] for name in DEFAULT_FRACTIONS}
    lacking = [name for name in ('val', 'test') if not sides[name]]
    if lacking:
        train = sides.pop('train')
        names = {relative_path(s.img_path, survey.root) for s in train}
        inside = [kept for group in groups if len(kept := [i for i in group if i in names]) > 1]
        shares = {'train': 1 - CARVED * len(lacking), **dict.fromkeys(lacking, CARVED)}
        sides.update(assign(train, survey.root, Fractions(shares), seed, inside)[0])
    return {name: sides[name] for name in DEFAULT_FRACTIONS}, {'name': 'folders', 'drawn_from_train': lacking}


def _check_side(name: str, side: Sequence[Sample], total: int) -> None:
    if not side:
        raise ValueError(
            f'the {name} split must hold at least one image, but the {total} images and their groups of '
            'look-alikes leave it empty; give other shares with --split, or judge look-alikes yourself '
            'and add --ignore-look-alikes.'
        )
    if all(s.defect_type == GOOD for s in side):
        raise ValueError(
            f'the {name} split must hold at least one image with a defect, but its {len(side)} images '
            'are all clean; add images with defects, give other shares with --split, or another --seed.'
        )


def _entry(sample: Sample, survey: Survey) -> SplitEntry:
    image = relative_path(sample.img_path, survey.root)
    mask = None if sample.seg_map_path is None else relative_path(sample.seg_map_path, survey.root)
    return SplitEntry(image, mask, sample.defect_type, survey.census.hashes[image])
