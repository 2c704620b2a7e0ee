"""Pairs of source and edit: found by name in folders, or listed in the manifest of a generated set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmdefect.diffusion.images import list_images, read_image, read_mask
from mmdefect.diffusion.manifest import Manifest


@dataclass(frozen=True)
class Pair:
    """Files of one edit.

    Attributes:
        name: stem of the edit, unique.
        edit: the edited image.
        source: the image it was made from.
        label: label map of the source; ``None``: the source is clean.
        mask: where the generator was to draw; ``None``: anywhere.
        probabilities: ``.npy`` with ``(K + 1, H, W)`` probabilities of a segmenter on the edit.
        origin: what else is known of the edit: seed, prompt, model, scores.
    """

    name: str
    edit: Path
    source: Path
    label: Path | None = None
    mask: Path | None = None
    probabilities: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


def find_pairs(
    edits: Path,
    sources: Path | None = None,
    labels: Path | None = None,
    prefix: str = '',
    probabilities: Path | None = None,
) -> list[Pair]:
    """List the edits of a folder with their sources.

    Args:
        edits: a generated set with a manifest, or a folder of images.
        sources: folder of the source images; needed unless the manifest knows them.
        labels: folder of their label maps, same stems; a source without one is an error unless ``labels`` is ``None``.
        prefix: what the name of an edit has in front of that of its source.
        probabilities: folder of ``<stem of the edit>.npy``.

    Raises:
        ValueError: naming the edit whose source, label or probability map is missing.
    """
    listed = (edits / 'manifest.jsonl').is_file()
    pairs = _of_manifest(edits, labels) if listed else _of_folders(edits, sources, labels, prefix)
    if probabilities is not None:
        pairs = [
            Pair(
                p.name,
                p.edit,
                p.source,
                p.label,
                p.mask,
                _existing(probabilities / f'{p.name}.npy', p.edit, 'probability map'),
                p.origin,
            )
            for p in pairs
        ]
    return pairs


def _of_folders(edits: Path, sources: Path | None, labels: Path | None, prefix: str) -> list[Pair]:
    if sources is None:
        raise ValueError(
            f'{edits} has no manifest.jsonl, so the folder of the source images must be given (--sources).'
        )
    by_stem = {path.stem: path for path in list_images(sources)}
    label_of = {path.stem: path for path in list_images(labels)} if labels is not None else {}
    pairs = []
    for edit in list_images(edits):
        stem = edit.stem[len(prefix) :] if edit.stem.startswith(prefix) else None
        if stem not in by_stem:
            raise ValueError(
                f'the edit {edit} must be named {prefix!r} + the name of an image in {sources}, but there is '
                'no such image; correct --sources or --prefix, or take the edit out.'
            )
        if labels is not None and stem not in label_of:
            raise ValueError(
                f'{by_stem[stem]} must have a label map of the same name in {labels}, but it has none; restore '
                'it, or leave --labels away if the sources are clean.'
            )
        pairs.append(Pair(edit.stem, edit, by_stem[stem], label_of.get(stem)))
    return pairs


def _of_manifest(folder: Path, labels: Path | None) -> list[Pair]:
    records = Manifest(folder).records()
    if not records:
        raise ValueError(f'{folder} must hold finished images, but its manifest lists none; run the generator first.')
    label_of = {path.stem: path for path in list_images(labels)} if labels is not None else {}
    pairs = []
    for record in records:
        edit = folder / record.image
        source = _existing(Path(record.source), edit, 'source')
        label = record.source_label and _existing(Path(record.source_label), edit, 'source label')
        pairs.append(
            Pair(
                record.id,
                edit,
                source,
                label or label_of.get(source.stem),
                _existing(folder / record.mask, edit, 'mask') if record.mask else None,
                None,
                dict(
                    seed=record.seed,
                    prompt=record.prompt,
                    source_prompt=record.source_prompt,
                    negative_prompt=record.negative_prompt,
                    model=record.model,
                    mask_kind=record.mask_kind,
                    defect_type=record.defect_type,
                    class_id=record.class_id,
                    scores=dict(record.scores),
                ),
            )
        )
    return pairs


def _existing(path: Path, edit: Path, what: str) -> Path:
    if not path.is_file():
        raise ValueError(f'the {what} of {edit} must exist, but {path} does not; restore it or correct the path.')
    return path


@dataclass(frozen=True)
class LoadedPair:
    """The arrays of a pair.

    Attributes:
        source: ``(H, W, 3)`` uint8 RGB, of the size of the edit.
        edit: ``(H, W, 3)`` uint8 RGB.
        label: ``(H, W)`` uint8.
        mask: ``(H, W)`` bool or ``None``.
        probabilities: ``(K + 1, H, W)`` float32 or ``None``.
    """

    source: np.ndarray
    edit: np.ndarray
    label: np.ndarray
    mask: np.ndarray | None
    probabilities: np.ndarray | None


def load_pair(pair: Pair, num_classes: int) -> LoadedPair:
    """Read a pair; a source of another size is brought to that of its edit, as the generator did.

    Raises:
        ValueError: naming the file that is of another shape, or has label values of no class.
    """
    edit, source = read_image(pair.edit), read_image(pair.source)
    size = edit.shape[:2]
    label = read_label(pair.label, num_classes) if pair.label is not None else np.zeros(source.shape[:2], np.uint8)
    if label.shape != source.shape[:2]:
        raise ValueError(
            f'the label {pair.label} must have the size of {pair.source}, {source.shape[1]}x{source.shape[0]}, '
            f'but it has {label.shape[1]}x{label.shape[0]}; export it at the size of the image.'
        )
    if source.shape != edit.shape:
        source = np.asarray(Image.fromarray(source).resize(size[::-1], Image.Resampling.LANCZOS))
        label = np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
    mask = read_mask(pair.mask, size) if pair.mask is not None else None
    probabilities = None
    if pair.probabilities is not None:
        probabilities = np.load(pair.probabilities).astype(np.float32)
        if probabilities.shape != (num_classes, *size):
            raise ValueError(
                f'{pair.probabilities} must hold the shape {(num_classes, *size)} (classes, height, width), got '
                f'{probabilities.shape}; predict the edit at its own size.'
            )
    return LoadedPair(source, edit, label, mask, probabilities)


def read_label(path: Path, num_classes: int) -> np.ndarray:
    """Return ``(H, W)`` uint8 class indices, 255 for ignore.

    Raises:
        ValueError: if the file holds colours or values of no class.
    """
    with Image.open(path) as image:
        values = np.array(image)
    if values.ndim != 2:
        raise ValueError(
            f'the label {path} must hold class indices in one channel, got the shape {values.shape}; convert the '
            'data with tools/convert_dataset.py.'
        )
    strange = sorted({int(v) for v in np.unique(values)} - {*range(num_classes), 255})
    if strange:
        raise ValueError(
            f'the label {path} must hold values below {num_classes} or 255, got {strange[:5]}; name all classes '
            'with --classes.'
        )
    return values.astype(np.uint8)
