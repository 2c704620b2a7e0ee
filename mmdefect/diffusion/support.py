"""Support sets: the few images that a defect type is learned from.

A support set is a folder with ``support.json`` and, for each shot, ``TYPE/000.png`` (a copy of the image, of any
suffix) and ``TYPE/000_mask.png`` (0/255, the pixels of that type)::

    {"format": "mmdefect-support/1", "seed": 0, "k": 3, "origin": {...},
     "shots": [{"type", "class_id", "image", "mask", "source", "sha256"}, ...]}

``source`` is the path within the data set and ``sha256`` that of the image file.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy import ndarray

from mmdefect.diffusion.images import read_image, read_mask, write_image
from mmdefect.diffusion.manifest import read_entries
from mmdefect.files import new_folder, write_json
from mmdefect.synthesis.library import CuttingRule, DefectLibrary, LabelledImage, build_library

FORMAT = 'mmdefect-support/1'


@dataclass(frozen=True)
class Candidate:
    """An image that shows a defect type."""

    type: str  # defect type
    class_id: int | None  # its class in label maps, if known
    path: str  # image file
    source: str  # its path within the data set, with forward slashes
    sha256: str  # of the image file


@dataclass(frozen=True)
class Shot:
    """One image of a support set, see the module."""

    type: str
    class_id: int | None
    image: str
    mask: str
    source: str
    sha256: str


@dataclass(frozen=True)
class SupportSet:
    """A support set on disk, with the seed of the choice and the data set and split that its shots come from."""

    folder: Path
    shots: list[Shot]
    seed: int
    origin: dict

    @property
    def types(self) -> list[str]:
        """Defect types in alphabetical order."""
        return sorted({s.type for s in self.shots})

    def load(self, defect_type: str) -> list[tuple[ndarray, ndarray]]:
        """Return images ``(H, W, 3)`` uint8 RGB and masks ``(H, W)`` bool of one type.

        Raises:
            ValueError: if there is no such type, or a mask is empty or of another size.
        """
        shots = [s for s in self.shots if s.type == defect_type]
        if not shots:
            raise ValueError(f'`type` must be one of the support set {self.folder}, {self.types}, got {defect_type!r}.')
        loaded = []
        for shot in shots:
            image = read_image(self.folder / shot.image)
            mask = read_mask(self.folder / shot.mask, image.shape[:2])
            if not mask.any():
                place = self.folder / shot.mask
                raise ValueError(f'the mask {place} must show the defect, but it is empty; take the shot out.')
            loaded.append((image, mask))
        return loaded


def choose_shots(
    candidates: Sequence[Candidate], k: int, seed: int, types: Sequence[str] | None = None
) -> list[Candidate]:
    """Choose ``k`` images of each type; the choice depends on seed and paths only, not on the order of files.

    Raises:
        ValueError: if a type has fewer images, or is not there.
    """
    if k < 1:
        raise ValueError(f'`k` must be at least 1, got {k}.')
    found = sorted({c.type for c in candidates})
    chosen = []
    for defect_type in types or found:
        pool = {c.sha256: c for c in sorted(candidates, key=lambda c: c.source, reverse=True) if c.type == defect_type}
        if len(pool) < k:
            raise ValueError(
                f'each type must have {k} different images to choose from, but {defect_type!r} has {len(pool)}; '
                f'the types are {found}. Lower --k, or take other types.'
            )
        key = {c.sha256: hashlib.sha256(f'{seed}/{c.type}/{c.source}'.encode()).digest() for c in pool.values()}
        chosen += sorted(pool.values(), key=lambda c: key[c.sha256])[:k]
    if not chosen:
        raise ValueError('the data set must show at least one defect to choose from, but it shows none.')
    return chosen


def check_held_out(chosen: Sequence[Candidate], held_out: Mapping[str, Mapping[str, str]]) -> None:
    """Raise ``ValueError`` if a shot is also evaluated on; ``held_out`` has, by split, the path of each SHA-256."""
    for shot in chosen:
        for split, files in held_out.items():
            if shot.sha256 in files:
                raise ValueError(
                    f'a support set may not overlap an evaluation split, but {shot.source} has the content of '
                    f'{files[shot.sha256]} ({split}); take shots from the training split.'
                )


def donor_library(support: SupportSet, folder: str | os.PathLike) -> DefectLibrary:
    """Cut the defects of a support set into a library; the class of a donor is 1 + the place of its type in ``types``.

    Raises:
        ValueError: if no defect fits the rule of cutting.
    """
    images = []
    for class_id, name in enumerate(support.types, 1):
        shots = [s for s in support.shots if s.type == name]
        for shot, (image, mask) in zip(shots, support.load(name), strict=True):
            label = mask.astype(np.uint8) * np.uint8(class_id)
            images.append(LabelledImage(shot.source, partial(tuple, (image, label)), shot.sha256))
    build_library(images, CuttingRule(max_extent_fraction=1.0), folder)
    return DefectLibrary(folder)


def write_support(
    folder: str | os.PathLike, chosen: Sequence[Candidate], masks: Sequence[ndarray], seed: int, origin: dict
) -> SupportSet:
    """Write a support set into a new folder, all of it or nothing.

    ``masks`` are ``(H, W)`` bool, the pixels of the type of each shot; ``origin`` is the data set and the split.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f'{folder} must not exist yet, but it does; name another folder.')
    with new_folder(folder) as unfinished:
        shots, numbers = [], Counter()
        for candidate, mask in zip(chosen, masks, strict=True):
            stem = f'{candidate.type}/{numbers[candidate.type]:03d}'
            numbers[candidate.type] += 1
            image, mask_file = f'{stem}{Path(candidate.path).suffix.lower()}', f'{stem}_mask.png'
            write_image(unfinished / mask_file, mask)
            shutil.copyfile(candidate.path, unfinished / image)
            facts = {key: value for key, value in vars(candidate).items() if key != 'path'}
            shots.append(Shot(image=image, mask=mask_file, **facts))
        k = max(numbers.values())
        body = dict(format=FORMAT, seed=seed, k=k, origin=origin, shots=[asdict(s) for s in shots])
        write_json(unfinished / 'support.json', body)
    return SupportSet(folder, shots, seed, origin)


def read_support(folder: str | os.PathLike) -> SupportSet:
    """Read a support set; ``ValueError`` if the folder holds none."""
    advice = 'make the set with `tools/generate.py support`.'
    body, shots = read_entries(Path(folder) / 'support.json', FORMAT, 'shots', Shot, advice)
    return SupportSet(Path(folder), shots, body['seed'], body['origin'])
