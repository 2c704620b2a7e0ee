"""Convert labelled images into a layout that our data sets read.

That is ``img_dir``/``ann_dir`` with class indices, or the folders of MVTec AD.

The new folder appears all at once: it is written beside its place and renamed. It holds a ``dataset.json`` with the
classes, which ``FolderDefectDataset`` and ``tools/init_project.py`` read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmdefect.datasets.conversion import ConversionReport, Source, SourceImage, paint
from mmdefect.datasets.convert_layouts import LAYOUTS, write_data_set
from mmdefect.datasets.folder_labels import FolderDescription, class_id_of, describe_folder
from mmdefect.datasets.folder_scan import FolderPair, FolderScan, scan_folder
from mmdefect.datasets.masks import decode_mask, image_size_hw, label_from_raw


def convert(
    source: Source,
    out: str | os.PathLike,
    layout: str = 'index',
    link: str = 'copy',
    overwrite: bool = False,
    origin: str = '',
    track: Callable[[Iterable, str, int], Iterable] = lambda items, text, total: items,
) -> ConversionReport:
    """Write a data set.

    Args:
        source: what one of the ``read_...`` functions returned.
        out: folder to make.
        layout: ``'index'``: ``img_dir/<split>`` and ``ann_dir/<split>`` with class indices. ``'mvtec'``:
            ``train/good``, ``test/<class>`` and ``ground_truth/<class>`` with 0/255 masks; images with several classes
            go to ``combined``, and defect images of the training split to ``test``.
        link: ``'copy'`` or ``'hard'``: copy image files, or give them a second name on the same disk.
        overwrite: replace ``out`` if it is an earlier conversion.
        origin: recorded in ``dataset.json``.
        track: ``track(items, text, total)`` wraps the loop, for a progress bar.

    Raises:
        FileExistsError: if ``out`` exists and ``overwrite`` is false, or it is no conversion of ours.
        ValueError: if an image or a label cannot be used; nothing is left behind.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'`layout` must be one of {tuple(LAYOUTS)}, got {layout!r}.')
    if link not in ('copy', 'hard'):
        raise ValueError(f"`link` must be 'copy' or 'hard', got {link!r}.")
    return write_data_set(source, Path(out), layout, link, overwrite, origin, track)


def read_folder(
    root: str | os.PathLike,
    encoding: str | None = None,
    class_names: Sequence[str] | None = None,
    types: str = 'auto',
    unmasked: str = 'skip',
) -> Source:
    """Read a folder in any of the arrangements of :mod:`mmdefect.datasets.folder_scan`.

    Several class masks of one image become one label map. See
    :func:`~mmdefect.datasets.folder_labels.describe_folder` for ``encoding`` and ``class_names``.
    """
    scan = scan_folder(root, types, unmasked)
    return _from_scan(scan, describe_folder(scan, encoding, class_names))


def read_ksdd2(root: str | os.PathLike, class_names: Sequence[str] | None = None) -> Source:
    """Read ``train/10000.png`` + ``train/10000_GT.png`` and the same in ``test``: one class, black masks for clean
    images.

    Raises:
        ValueError: if an image has no mask, because then one is missing.
    """
    scan = scan_folder(root, 'none')
    if scan.unmasked:
        raise ValueError(
            f'every image of {root} must have a mask named <image>_GT, but {scan.unmasked[0]} has none '
            f'({len(scan.unmasked)} in all); restore it, or convert with the format folder.'
        )
    return _from_scan(scan, describe_folder(scan, 'binary', class_names or ['defect']))


def read_magnetic_tile(root: str | os.PathLike, class_names: Sequence[str] | None = None) -> Source:
    """Read magnetic tiles as published or regrouped.

    As published: ``MT_Blowhole/Imgs/x.jpg`` + ``x.png`` and so on, clean ones in ``MT_Free``. Regrouped:
    ``images/blowhole__x.jpg`` + ``masks/blowhole__x.png``, clean ones in ``good``. Classes are the types, lower case,
    without ``MT_``, in alphabetical order.
    """
    scan = scan_folder(root)
    if scan.types_from == 'none':
        raise ValueError(
            f'{root} must hold folders MT_<type> or files <type>__<stem>, but it has neither; convert it '
            'with the format folder.'
        )
    pairs = tuple(replace(p, types=tuple(t and re.sub('^mt_', '', t.lower()) for t in p.types)) for p in scan.pairs)
    scan = replace(scan, pairs=pairs)
    return _from_scan(scan, describe_folder(scan, 'binary', class_names))


def _from_scan(scan: FolderScan, description: FolderDescription) -> Source:
    images = [
        SourceImage(
            os.path.join(scan.root, pair.image),
            os.path.splitext(pair.image)[0],
            pair.split,
            _PairReader(scan.root, pair, description),
            pair.types[0] if pair.types else None,
        )
        for pair in scan.pairs
    ]
    notes = []
    if scan.unmasked:
        notes.append(
            f'{len(scan.unmasked)} images without a mask, left out: {", ".join(scan.unmasked[:3])}'
            f'{", ..." if len(scan.unmasked) > 3 else ""}.'
        )
    if scan.orphan_masks:
        notes.append(
            f'{len(scan.orphan_masks)} masks without an image, left out: {", ".join(scan.orphan_masks[:3])}'
            f'{", ..." if len(scan.orphan_masks) > 3 else ""}.'
        )
    return Source(tuple(images), description.classes, tuple(notes))


class _PairReader:
    """Read and merge the masks of one image when asked for."""

    def __init__(self, root: str, pair: FolderPair, description: FolderDescription) -> None:
        self.root, self.pair, self.description = root, pair, description

    def __call__(self, decisions: Counter) -> np.ndarray:
        image = os.path.join(self.root, self.pair.image)
        size_hw = image_size_hw(image)
        labels = []
        for mask, defect_type in zip(self.pair.masks, self.pair.types, strict=True):
            label = self._read(os.path.join(self.root, mask), defect_type)
            if label.shape != size_hw:
                raise ValueError(
                    f'the mask {os.path.join(self.root, mask)} must have the size of its image, '
                    f'{size_hw[1]}x{size_hw[0]}, but it has {label.shape[1]}x{label.shape[0]}; export it '
                    'at the size of the image.'
                )
            labels.append(label)
        if len(labels) == 1:
            return labels[0]
        regions = [(label == value, int(value)) for label in labels for value in np.unique(label) if value]
        return paint(np.zeros(size_hw, np.uint8), regions, decisions)

    def _read(self, path: str, defect_type: str | None) -> np.ndarray:
        d = self.description
        raw = decode_mask(Path(path).read_bytes(), d.mask_encoding, path)
        class_id = class_id_of(defect_type, d, path)
        return label_from_raw(raw, d.mask_encoding, path, len(d.classes), class_id, d.mask_palette)
