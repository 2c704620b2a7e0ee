"""Write relabelled edits as a data set that our configs train on.

A packed set is a folder::

    img_dir/train/NAME.png
    ann_dir/train/NAME.png      class indices, 0 normal, 255 ignore
    pack.json                   what every image is and where it comes from

``pack.json`` holds one entry an image: the source and the hash of its content, mask, seed, prompt, model, scores, the
verdict, who decided it, and which label it carries. It is written last into a folder beside the final one, which is then
renamed, so a packed set is complete or not there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdefect.diffusion.images import disk_full, write_image
from mmdefect.diffusion.relabel_pairs import Pair, load_pair, read_label
from mmdefect.diffusion.review import Decision
from mmdefect.experiments.records import read_json, write_json

VERSION = 1
FILE = 'pack.json'
RELABELLED, COPIED, BOXES = 'relabelled', 'copied', 'boxes'


@dataclass(frozen=True)
class PackedImage:
    """One image of a packed set; see the module."""

    image: str
    label: str
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class PackedSet:
    """A packed set on disk.

    Attributes:
        folder: its place.
        classes: names, the normal class first.
        labels: ``relabelled``, ``copied``, or ``boxes`` (:mod:`mmdefect.diffusion.box_labels`).
        images: its images, paths relative to the folder.
    """

    folder: Path
    classes: tuple[str, ...]
    labels: str
    images: tuple[PackedImage, ...]


def read_pack(folder: str | Path) -> PackedSet:
    """Read a packed set.

    Raises:
        ValueError: if the folder is none, or a file of it is missing.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise ValueError(
            f'{folder} must be a packed set with {FILE}, but it is not; make one with tools/generate.py pack.'
        )
    content = read_json(folder / FILE)
    if content.get('version') != VERSION:
        raise ValueError(f'{folder / FILE} must have version {VERSION}, got {content.get("version")!r}; pack it again.')
    images = tuple(PackedImage(e['image'], e['label'], e) for e in content['images'])
    for image in images:
        for name in (image.image, image.label):
            if not (folder / name).is_file():
                raise ValueError(f'{folder / FILE} lists {name}, but the file does not exist; pack the set again.')
    return PackedSet(folder, tuple(content['classes']), content['labels'], images)


def read_relabelled(folder: Path) -> dict:
    """Return ``relabel.json`` of a folder that ``relabel`` wrote.

    Raises:
        ValueError: if there is none.
    """
    if not (folder / 'relabel.json').is_file():
        raise ValueError(
            f'{folder} must hold relabel.json, but it does not; run tools/generate.py relabel first, or let it finish.'
        )
    return read_json(folder / 'relabel.json')


def choose(entries: Sequence[Mapping], decisions: Mapping[str, Decision]) -> list[tuple[Mapping, str, Path | None]]:
    """Return the edits that are used, with who decided it (``check`` or ``reviewer``) and a corrected label if any."""
    chosen = []
    for entry in entries:
        decision = decisions.get(entry['name'], Decision(None))
        accepted = entry['accepted'] if decision.accepted is None else decision.accepted
        if accepted:
            chosen.append((entry, 'check' if decision.accepted is None else 'reviewer', decision.corrected))
    return chosen


def pack_relabelled(relabelled: Path, out: Path, decisions: Mapping[str, Decision], progress) -> PackedSet:
    """Pack the accepted edits of a relabelled folder with their new labels.

    Args:
        relabelled: folder that ``relabel`` wrote.
        out: folder of the set; must not exist.
        decisions: of a reviewer; they beat the automatic verdict.
        progress: shows how far it is: ``progress(items, text, total)``.

    Raises:
        ValueError: if nothing is accepted, or ``out`` exists.
    """
    content = read_relabelled(relabelled)
    chosen = choose(content['entries'], decisions)
    if not chosen:
        raise ValueError(
            f'{relabelled} must hold at least one accepted edit, but all {len(content["entries"])} are rejected; '
            'look at its sheets and accept some in review.csv.'
        )
    items = []
    for entry, decided_by, corrected in chosen:
        pair = Pair(
            entry['name'],
            Path(entry['edit']),
            Path(entry['source']),
            corrected or relabelled / entry['label'],
            origin=entry['origin'],
        )
        items.append(
            (
                pair,
                dict(
                    decided_by=decided_by,
                    accepted=True,
                    automatic=entry['accepted'],
                    corrected=corrected is not None,
                    reasons=entry['reasons'],
                    fates=entry['fates'],
                    checks=entry['scores'],
                    mask=entry['mask'],
                    components=entry['components'],
                ),
            )
        )
    return write_packed(items, tuple(content['classes']), RELABELLED, out, progress)


def pack_copied(pairs: Sequence[Pair], classes: Sequence[str], out: Path, progress) -> PackedSet:
    """Pack every edit with the label of its source, unchanged and unchecked: the published setting, for comparison.

    Args:
        pairs: edits with their sources and labels.
        classes: names, the normal class first.
        out: folder of the set; must not exist.
        progress: shows how far it is.
    """
    items = [(pair, dict(decided_by='nobody', mask=str(pair.mask) if pair.mask else None)) for pair in pairs]
    return write_packed(items, tuple(classes), COPIED, out, progress)


def write_packed(
    items: Sequence[tuple[Pair, dict]], classes: tuple[str, ...], labels: str, out: Path, progress
) -> PackedSet:
    """Write pairs, each with what its entry says beside, as a packed set: complete or not at all."""
    repeated = [name for name, count in Counter(pair.name for pair, _ in items).items() if count > 1]
    if repeated:
        raise ValueError(
            f'every edit must have a name of its own, but {repeated[0]!r} occurs twice; pack them separately.'
        )
    if out.exists():
        raise ValueError(f'{out} must not exist yet; name another folder, or remove that one.')
    partial = out.parent / f'.{out.name}.partial'
    shutil.rmtree(partial, ignore_errors=True)
    try:
        images = [
            _write_image(pair, entry, len(classes), labels, partial)
            for pair, entry in progress(items, 'packing', len(items))
        ]
        write_json(partial / FILE, dict(version=VERSION, classes=list(classes), labels=labels, images=images))
        partial.rename(out)
    except OSError as err:
        raise (disk_full(out, err) if err.errno == 28 else err) from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_pack(out)


def _write_image(pair: Pair, entry: dict, num_classes: int, labels: str, folder: Path) -> dict:
    image, label_file = f'img_dir/train/{pair.name}.png', f'ann_dir/train/{pair.name}.png'
    if labels == COPIED:
        loaded = load_pair(pair, num_classes)  # brings a label to the size of the edit
        photo, label = loaded.edit, loaded.label
    else:
        from mmdefect.diffusion.images import read_image

        photo, label = read_image(pair.edit), read_label(pair.label, num_classes)
        if label.shape != photo.shape[:2]:
            raise ValueError(
                f'the label {pair.label} must have the size of {pair.edit}, {photo.shape[1]}x'
                f'{photo.shape[0]}, but it has {label.shape[1]}x{label.shape[0]}; draw it at that size.'
            )
    write_image(folder / image, photo)
    write_image(folder / label_file, label)
    origin = {
        key: pair.origin.get(key)
        for key in (
            'seed',
            'prompt',
            'source_prompt',
            'negative_prompt',
            'model',
            'mask_kind',
            'defect_type',
            'class_id',
            'scores',
        )
    }
    return dict(
        image=image,
        label=label_file,
        name=pair.name,
        labels=labels,
        source=pair.source.name,
        source_sha256=hashlib.sha256(pair.source.read_bytes()).hexdigest(),
        defect_pixels={str(k): int((label == k).sum()) for k in range(1, num_classes)},
        **origin,
        **entry,
    )
