"""Groups of images that must stay on one side of a split: exposures of one part, or files of equal content."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdefect.datasets.samples import Sample, relative_path


@dataclass(frozen=True)
class Unit:
    """Images that are never separated; usually one.

    Attributes:
        samples: the images, sorted by relative path.
        key: relative path of the first one.
    """

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
    """Join images that share a group, also through a chain of groups.

    Args:
        samples: the images.
        root: folder the paths in ``groups`` are relative to.
        groups: relative paths of images that belong together.

    Raises:
        ValueError: if a group names an image that is not among the samples, or two samples are one file.
    """
    by_path: dict[str, Sample] = {}
    for sample in samples:
        name = relative_path(sample.img_path, root)
        if name in by_path:
            raise ValueError(f'each image must be listed once, but {name} is listed twice; correct the data set.')
        by_path[name] = sample
    parent = {name: name for name in by_path}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for group in groups:
        for member in group:
            if member not in parent:
                raise ValueError(
                    f'groups must name images of the data set, but {member} is not one; correct the group file.'
                )
            parent[top(member)] = top(group[0])
    joined = defaultdict(list)
    for name in sorted(by_path):
        joined[top(name)].append(name)
    return [Unit(tuple(by_path[n] for n in names), names[0]) for names in joined.values()]


def duplicate_groups(hashes: dict[str, str]) -> list[list[str]]:
    """Return the names that share a content hash."""
    by_hash = defaultdict(list)
    for name, digest in hashes.items():
        by_hash[digest].append(name)
    return [names for names in by_hash.values() if len(names) > 1]


def read_groups(path: str | Path, samples: Sequence[Sample], root: str) -> list[list[str]]:
    """Read a group file for the images of a data set; see :func:`resolve_groups`."""
    return resolve_groups(path, [relative_path(sample.img_path, root) for sample in samples], root)


def resolve_groups(path: str | Path, images: Iterable[str], where: str) -> list[list[str]]:
    """Read a group file: a JSON list of lists, or an object of lists.

    Images are named by relative path or file name, each with or without suffix.

    Args:
        path: the file.
        images: relative paths of all images that may be named.
        where: where these images are from, for messages.

    Returns:
        The groups as relative paths.

    Raises:
        ValueError: if the file is not such a JSON, or a name fits no image or several.
    """
    try:
        body = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError) as err:
        raise ValueError(
            f'the group file {path} must be readable JSON, but reading it fails ({err}); correct it.'
        ) from err
    groups = list(body.values()) if isinstance(body, dict) else body
    if not isinstance(groups, list) or not all(
        isinstance(g, list) and all(isinstance(m, str) for m in g) for g in groups
    ):
        raise ValueError(f'the group file {path} must be a list of lists of image names; correct it.')
    names: dict[str, set[str]] = defaultdict(set)
    for relative in images:
        for name in (relative, relative.rsplit('/', 1)[-1]):
            names[name].add(relative)
            names[name.rsplit('.', 1)[0]].add(relative)
    resolved = []
    for group in groups:
        for member in group:
            found = sorted(names.get(member, ()))
            if len(found) != 1:
                raise ValueError(
                    f'the group file {path} must name images of {where}, but {member!r} fits '
                    f'{"none" if not found else " and ".join(found[:2])}; name it by its relative path.'
                )
        resolved.append([next(iter(names[member])) for member in group])
    return [g for g in resolved if g]
