"""Divisions with fewer defective training images, one inside the other: learning curves over the number of real defects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmdefect.datasets.groups import resolve_groups
from mmdefect.datasets.split_file import Split, SplitEntry, read_split, write_split


def split_fewer(
    split_file: str,
    shots: Sequence[int],
    out: str,
    seed: int = 0,
    group_file: str | None = None,
    overwrite: bool = False,
) -> dict[int, Split]:
    """Keep some defective training images of each type, all clean ones, and every other split as it is.

    The images of fewer shots are among those of more shots of the same seed. Exposures of one part bring little new: an
    image is taken from every group before a second one of any.

    Args:
        split_file: the division to start from.
        shots: images of each defect type; a type that has fewer keeps all.
        out: files to write, with ``{shots}`` in place of the number.
        seed: another seed draws other images.
        group_file: images that show one part, see :func:`~mmdefect.datasets.groups.resolve_groups`.
        overwrite: whether the files may exist.

    Returns:
        The divisions that were written, by number of shots.

    Raises:
        FileExistsError: if a file exists and may not be overwritten; then none is written.
        ValueError: if a number is not positive, ``out`` has no ``{shots}``, or nothing defective is in training.
    """
    if not shots or min(shots) < 1:
        raise ValueError(f'`shots` must be numbers of images from 1 on, got {list(shots)}.')
    if '{shots}' not in out:
        raise ValueError(f'`out` must hold {{shots}} in place of the number, got {out!r}.')
    paths = {number: Path(out.replace('{shots}', str(number))) for number in shots}
    there = [str(path) for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f'{", ".join(there)} must not exist yet, for they would be lost; name other files or allow '
            'it with --overwrite.'
        )
    before = read_split(split_file)
    training = before.entries_of('train', split_file)
    groups: dict[str, int] = {}
    if group_file is not None:
        images = [entry.image for entries in before.splits.values() for entry in entries]
        for number, group in enumerate(resolve_groups(group_file, images, split_file)):
            groups |= dict.fromkeys(group, number)
    ranks = _ranks(training, seed, groups)
    if not ranks:
        raise ValueError(f'the training split of {split_file} must hold defective images, but holds only clean ones.')
    made = {}
    for number, path in paths.items():
        kept = [entry for entry in training if entry.is_clean or ranks[entry.image] < number]
        protocol = dict(name='fewer_shots', shots=number, of=before.protocol)
        made[number] = replace(before, splits={**before.splits, 'train': kept}, protocol=protocol, seed=seed)
        write_split(made[number], path, overwrite)
    return made


def _ranks(entries: Sequence[SplitEntry], seed: int, groups: dict[str, int]) -> dict[str, int]:
    """The place of every defective image in the drawn order of its type."""
    by_type: dict[str, list[SplitEntry]] = defaultdict(list)
    for entry in entries:
        if not entry.is_clean:
            by_type[entry.type].append(entry)
    ranks: dict[str, int] = {}
    for position, name in enumerate(sorted(by_type)):
        found = sorted(by_type[name], key=lambda entry: entry.image)
        draws = np.random.default_rng([seed, position]).permutation(len(found))
        seen: dict[int | str, int] = defaultdict(int)
        keys = {}
        for draw in draws:  # the n-th image of its group comes behind the first ones of all groups
            group = groups.get(found[draw].image, found[draw].image)
            keys[found[draw].image] = (seen[group], len(keys))
            seen[group] += 1
        ranks |= {image: rank for rank, image in enumerate(sorted(keys, key=keys.__getitem__))}
    return ranks
