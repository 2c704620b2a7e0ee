"""Look at a user's folder: how its masks are read, which images it holds, and the census."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmdefect.datasets.census import Census, take_census
from mmdefect.datasets.folder_labels import FolderDescription, describe_folder, label_samples, read_description
from mmdefect.datasets.folder_scan import scan_folder
from mmdefect.datasets.samples import Sample, relative_path


@dataclass(frozen=True)
class Survey:
    """What a look into the folder gave: how to read it, its images with known types, and the census."""

    root: str
    description: FolderDescription
    samples: tuple[Sample, ...]
    census: Census


def survey_folder(
    data_dir: str | os.PathLike,
    encoding: str | None = None,
    class_names: Sequence[str] | None = None,
    types_from: str | None = None,
    unmasked: str | None = None,
    track: Callable[[Iterable, str, int], Iterable] = lambda items, text, total: items,
) -> Survey:
    """Scan a folder, decide how its masks are read, and count; see :func:`mmdefect.datasets.project.init_project`."""
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(
            f'`DATA_DIR` must be a folder with images and masks, but {data_dir} is none; check the path.'
        )
    root = str(Path(data_dir).resolve())
    stored = read_description(root)
    scan = scan_folder(
        root,
        types_from or (stored.types_from if stored else 'auto'),
        unmasked or (stored.unmasked if stored else 'skip'),
    )
    masks = sum(len(p.masks) for p in scan.pairs)
    description = describe_folder(scan, encoding, class_names, lambda items: track(items, 'reading masks', masks))
    samples = label_samples(scan, description)
    census = take_census(
        samples,
        description.classes,
        root,
        scan.orphan_masks,
        scan.unmasked,
        lambda items: track(items, 'counting', len(samples)),
    )
    typed = tuple(replace(s, defect_type=census.types[relative_path(s.img_path, root)]) for s in samples)
    return Survey(root, description, typed, census)
