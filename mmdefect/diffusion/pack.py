"""Write generated images as a data set that our configs train on.

A packed set is a folder::

    img_dir/train/NAME.png
    ann_dir/train/NAME.png      class indices, 0 normal, 255 ignore
    pack.json                   what every image is and where it comes from

``pack.json`` holds one entry for each image: the source and the hash of its content, mask, seed, prompt, model, scores,
the verdict, who decided it, and which label it carries. A packed set is complete or not there.

Labels are of one of three kinds:

* ``relabelled``: the new labels of accepted edits;
* ``copied``: those of the sources, unchanged and unchecked: the published setting, for comparison;
* ``boxes``: the masks of sampled images. ``sample`` generates somewhere inside a mask, and it is not known where, so
  training with ``WeakBoxLoss`` counts a pixel inside only when the network already sees a defect there. Relabelled sets
  have better labels; these cost nothing.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from mmdefect.diffusion.images import read_image, read_mask, write_image
from mmdefect.diffusion.manifest import check_unique
from mmdefect.diffusion.relabel_run import ORIGIN, Decision, Pair, find_pairs, load_pair, read_label
from mmdefect.files import new_folder, read_json, write_json
from mmdefect.progress import track

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
    """A packed set on disk."""

    folder: Path  # its place
    classes: tuple[str, ...]  # names, the normal class first
    labels: str  # `relabelled`, `copied` or `boxes`
    images: tuple[PackedImage, ...]  # its images, paths relative to the folder


def read_pack(folder: str | Path) -> PackedSet:
    """Read a packed set; ``ValueError`` if the folder is none, or a file of it is missing."""
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise ValueError(f'{folder} must be a packed set with {FILE}; make one with tools/generate.py pack.')
    content = read_json(folder / FILE)
    if content.get('version') != VERSION:
        raise ValueError(f'{folder / FILE} must have version {VERSION}, got {content.get("version")!r}; pack it again.')
    images = tuple(PackedImage(e['image'], e['label'], e) for e in content['images'])
    for name in (name for image in images for name in (image.image, image.label)):
        if not (folder / name).is_file():
            raise ValueError(f'{folder / FILE} lists {name}, but the file does not exist; pack the set again.')
    return PackedSet(folder, tuple(content['classes']), content['labels'], images)


def read_relabelled(folder: Path) -> dict:
    """Return ``relabel.json`` of a folder that ``relabel`` wrote."""
    if not (folder / 'relabel.json').is_file():
        raise ValueError(f'{folder} must hold relabel.json; run tools/generate.py relabel first, or let it finish.')
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


def pair_of(entry: Mapping, label: Path | None) -> Pair:
    """Return the pair of an entry of ``relabel.json`` with one of its labels."""
    mask = Path(entry['mask']) if entry['mask'] else None
    return Pair(entry['name'], Path(entry['edit']), Path(entry['source']), label, mask, None, entry['origin'])


def pack_relabelled(relabelled: Path, out: Path, decisions: Mapping[str, Decision]) -> PackedSet:
    """Pack the accepted edits of a relabelled folder with their new labels into ``out``, which must not exist.

    Decisions of a reviewer beat the automatic verdict.
    """
    content = read_relabelled(relabelled)
    classes, chosen = content['classes'], choose(content['entries'], decisions)
    if not chosen:
        raise ValueError(
            f'{relabelled} must hold at least one accepted edit, but all {len(content["entries"])} are rejected; '
            'look at its sheets and accept some in review.csv.'
        )
    items = []
    for entry, decided_by, corrected in chosen:
        facts = dict(
            decided_by=decided_by,
            accepted=True,
            automatic=entry['accepted'],
            corrected=corrected is not None,
            reasons=entry['reasons'],
            fates=entry['fates'],
            checks=entry['scores'],
            mask=entry['mask'],
            components=entry['components'],
        )
        items.append((pair_of(entry, corrected or relabelled / entry['label']), facts))

    def load(pair: Pair) -> tuple[ndarray, ndarray]:
        image = read_image(pair.edit)
        return image, read_label(pair.label, len(classes), image.shape[:2])

    return _write_packed(items, load, classes, RELABELLED, out)


def pack_copied(pairs: Sequence[Pair], classes: Sequence[str], out: Path) -> PackedSet:
    """Pack every edit with the label of its source, brought to the size of the edit; ``out`` must not exist."""

    def load(pair: Pair) -> tuple[ndarray, ndarray]:
        loaded = load_pair(pair, len(classes))
        return loaded.edit, loaded.label

    items = [(pair, dict(decided_by='nobody', mask=str(pair.mask) if pair.mask else None)) for pair in pairs]
    return _write_packed(items, load, classes, COPIED, out)


def pack_boxes(
    generated: Path,
    classes: Sequence[str],
    out: Path,
    class_ids: Mapping[str, int] | None = None,
    sources: Path | None = None,
) -> PackedSet:
    """Pack every image of a sampled set with its mask as label into ``out``, which must not exist.

    ``class_ids`` is the class of each defect type; of others it is what the manifest says, or the class of that name.
    ``sources`` is the folder of the good images of a set without a manifest (a category that AnoGen generated).
    """
    pairs = find_pairs(generated, sources)
    ids = {}
    for pair in pairs:
        if pair.mask is None:
            raise ValueError(
                f'every image of {generated} must have a mask, but {pair.name} was edited: use relabel and pack.'
            )
        name, known = pair.origin['defect_type'], pair.origin['class_id']
        if known is None and name in classes:
            known = classes.index(name)
        found = ids[pair.name] = (class_ids or {}).get(name, known)
        if found is None or not 0 < found < len(classes):
            raise ValueError(
                f'each defect type must have a class in 1..{len(classes) - 1} of {list(classes)}, got {found} '
                f'for {name!r}; name it with --class-ids {name}=1.'
            )

    def load(pair: Pair) -> tuple[ndarray, ndarray]:
        image = read_image(pair.edit)
        return image, read_mask(pair.mask, image.shape[:2]).astype(np.uint8) * np.uint8(ids[pair.name])

    return _write_packed([(p, dict(decided_by='nobody', mask=str(p.mask))) for p in pairs], load, classes, BOXES, out)


def _write_packed(
    items: Sequence[tuple[Pair, dict]],
    load: Callable[[Pair], tuple[ndarray, ndarray]],
    classes: Sequence[str],
    labels: str,
    out: Path,
) -> PackedSet:
    """Write pairs, each with what its entry says beside; ``load`` returns image and label map of a pair."""
    check_unique([pair.name for pair, _ in items])
    if out.exists():
        raise ValueError(f'{out} must not exist yet; name another folder, or remove that one.')
    with new_folder(out) as partial:
        entries = []
        for pair, facts in track(items, 'packing', len(items)):
            image_file, label_file = f'img_dir/train/{pair.name}.png', f'ann_dir/train/{pair.name}.png'
            image, label = load(pair)
            write_image(partial / image_file, image)
            write_image(partial / label_file, label)
            entries.append(
                dict(
                    image=image_file,
                    label=label_file,
                    name=pair.name,
                    labels=labels,
                    source=pair.source.name,
                    source_sha256=hashlib.sha256(pair.source.read_bytes()).hexdigest(),
                    defect_pixels={str(k): int((label == k).sum()) for k in range(1, len(classes))},
                    **{key: pair.origin.get(key) for key in ORIGIN},
                    **facts,
                )
            )
        write_json(partial / FILE, dict(version=VERSION, classes=list(classes), labels=labels, images=entries))
    return read_pack(out)
