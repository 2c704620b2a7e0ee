"""Groups of images that must stay on one side of a split: exposures of one part, or files of equal content."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdefect.datasets.near_duplicates import merge_groups
from mmdefect.datasets.samples import Sample, relative_path


@dataclass(frozen=True)
class Unit:
    """Images that are never separated, sorted by relative path, usually one; ``key`` is the path of the first."""

    samples: tuple[Sample, ...]
    key: str

    @property
    def stratum(self) -> str:
        """The most frequent defect type in the unit; a clean one only when nothing else is in it."""
        counts = Counter(s.stratum for s in self.samples if not s.is_clean) or Counter(s.stratum for s in self.samples)
        return min(counts, key=lambda t: (-counts[t], t))

    @property
    def is_clean(self) -> bool:
        """Whether all images are clean."""
        return all(s.is_clean for s in self.samples)

    @property
    def own_split(self) -> str | None:
        """The split all images have in their layout, or ``None`` when they differ."""
        splits = {s.own_split for s in self.samples}
        return splits.pop() if len(splits) == 1 else None


def make_units(samples: Sequence[Sample], root: str, groups: Iterable[Sequence[str]] = ()) -> list[Unit]:
    """Join images that share a group of relative paths, also through a chain of groups."""
    by_path: dict[str, Sample] = {}
    for sample in samples:
        name = relative_path(sample.img_path, root)
        if name in by_path:
            raise ValueError(f'each image must be listed once, but {name} is listed twice; correct the data set.')
        by_path[name] = sample
    names = sorted(by_path)
    position = {name: index for index, name in enumerate(names)}
    for member in (member for group in groups for member in group):
        if member not in by_path:
            raise ValueError(f'groups must name images of the data set, but {member} is not one; correct the groups.')
    joined = merge_groups(len(names), [[position[member] for member in group] for group in groups])
    alone = set(range(len(names))).difference(*joined)
    units = [*joined, *((index,) for index in sorted(alone))]
    return [Unit(tuple(by_path[names[index]] for index in unit), names[unit[0]]) for unit in units]


def read_groups(path: str | Path, images: Iterable[str], where: str) -> list[list[str]]:
    """Read a group file, a JSON list of lists or an object of lists, and return the groups as relative paths.

    Args:
        path: the file; it names images by relative path or file name, each with or without suffix.
        images: relative paths of all images that may be named.
        where: where these images are from, for messages.
    """
    try:
        body = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError) as err:
        raise ValueError(f'the group file {path} must be readable JSON, but reading it fails ({err}).') from err
    groups = list(body.values()) if isinstance(body, dict) else body
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and all(isinstance(member, str) for member in group) for group in groups
    ):
        raise ValueError(f'the group file {path} must be a list of lists of image names; correct it.')
    names: dict[str, set[str]] = defaultdict(set)
    for relative in images:
        for name in (relative, relative.rsplit('/', 1)[-1]):
            names[name].add(relative)
            names[name.rsplit('.', 1)[0]].add(relative)
    for member in (member for group in groups for member in group):
        found = sorted(names.get(member, ()))
        if len(found) != 1:
            raise ValueError(
                f'the group file {path} must name images of {where}, but {member!r} fits '
                f'{" and ".join(found[:2]) or "none"}; name it by its relative path.'
            )
    return [[next(iter(names[member])) for member in group] for group in groups if group]
