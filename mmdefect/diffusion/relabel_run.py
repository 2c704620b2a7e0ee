"""Relabel a set of edits: new labels, what was decided and why, and images and a table for a reviewer.

Edits and their sources are found by name in folders, or listed in the manifest of a generated set. A run writes::

    labels/NAME.png         the new label map
    sheets/sheet_001.jpg    source, edit, change, copied and new label, some edits in each
    relabel.json            what became of each defect, the verdict on each edit, settings
    review.csv              one row for each edit, for the reviewer

The column ``decision`` of ``review.csv`` is for the reviewer: ``accept``, ``reject`` or empty (the automatic verdict
stands); ``corrected`` may name a label map made by hand, which then replaces the automatic one. A decision beats the
automatic verdict in both directions. Running ``relabel`` again keeps the decisions of the table.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from mmdefect.diffusion.images import labels_of, list_images, read_image, read_mask, write_image
from mmdefect.diffusion.manifest import Manifest
from mmdefect.diffusion.relabel import Component, Limits, RelabelSettings, count_fates, judge, relabel
from mmdefect.diffusion.relabel_change import Appearance, difference_of, learn_appearance, set_noise
from mmdefect.files import write_bytes, write_json, write_text
from mmdefect.progress import track
from mmdefect.visualization.grid import image_grid, legend
from mmdefect.visualization.overlay import default_palette, overlay_labels

VERSION = 1
#: Pairs of one size from which the noise at each place is estimated from the set, and most that are read for it.
NOISE_PAIRS = (12, 120)
#: What the manifest of a generated set says about the origin of an image.
ORIGIN = 'seed', 'prompt', 'source_prompt', 'negative_prompt', 'model', 'mask_kind', 'defect_type', 'class_id', 'scores'
ACCEPT, REJECT = 'accept', 'reject'
#: Columns of the review that are the reviewer's.
REVIEWED = ('decision', 'corrected', 'note')
#: Colours of the boxes around defects in the images for the reviewer: what became of them.
FATE_COLOURS = {'kept': (0, 200, 255), 'changed': (255, 220, 0), 'vanished': (170, 170, 170), 'new': (255, 0, 255)}


@dataclass(frozen=True)
class Pair:
    """Files of one edit."""

    name: str  # stem of the edit, unique
    edit: Path  # the edited image
    source: Path  # the image it was made from
    label: Path | None = None  # label map of the source; `None`: the source is good
    mask: Path | None = None  # where the generator was to generate; `None`: anywhere
    probabilities: Path | None = None  # `.npy` with `(K + 1, H, W)` probabilities of a segmenter on the edit
    origin: Mapping[str, Any] = field(default_factory=dict)  # what else is known of the edit, see :data:`ORIGIN`


def find_pairs(
    edits: Path,
    sources: Path | None = None,
    labels: Path | None = None,
    prefix: str = '',
    probabilities: Path | None = None,
) -> list[Pair]:
    """List the edits of a folder with their sources; a missing source, label or probability map raises ``ValueError``.

    Args:
        edits: a generated set with a manifest, a category that AnoGen generated (``images/`` and ``masks/``), or a
            folder of images.
        sources: folder of the source images; needed unless the manifest knows them.
        labels: folder of their label maps, same stems; a source without one is an error unless ``labels`` is ``None``.
        prefix: what the name of an edit has in front of that of its source.
        probabilities: folder of ``<stem of the edit>.npy``.
    """
    if (edits / 'manifest.jsonl').is_file():
        pairs = _pairs_of_manifest(edits, labels)
    elif (edits / 'images').is_dir():
        pairs = _pairs_of_anogen(edits, sources)
    else:
        pairs = _pairs_of_folders(edits, sources, labels, prefix)
    if probabilities is None:
        return pairs
    maps = [_existing(probabilities / f'{p.name}.npy', p.edit, 'probability map') for p in pairs]
    return [replace(pair, probabilities=file) for pair, file in zip(pairs, maps, strict=True)]


def _pairs_of_folders(edits: Path, sources: Path | None, labels: Path | None, prefix: str) -> list[Pair]:
    if sources is None:
        raise ValueError(
            f'{edits} has no manifest.jsonl, so the folder of the source images must be given (--sources).'
        )
    by_stem = {path.stem: path for path in list_images(sources)}
    pairs = []
    for edit in list_images(edits):
        stem = edit.stem[len(prefix) :] if edit.stem.startswith(prefix) else None
        if stem not in by_stem:
            raise ValueError(
                f'the edit {edit} must be named {prefix!r} + the name of an image in {sources}, but there is no such '
                'image; correct --sources or --prefix, or take the edit out.'
            )
        pairs.append(Pair(edit.stem, edit, by_stem[stem]))
    label_of = {} if labels is None else labels_of([pair.source for pair in pairs], labels)
    return [replace(pair, label=label_of.get(pair.source.stem)) for pair in pairs]


def _pairs_of_anogen(folder: Path, sources: Path | None) -> list[Pair]:
    """Pair ``images/IMAGE-MASK-SAMPLE-TYPE.png`` with ``masks/MASK-TYPE.png`` and the good image ``IMAGE``.

    Where each image has masks of its own (screw) they are named ``IMAGE-MASK.png``, and lie among the images.
    """
    if sources is None:
        raise ValueError(f'{folder} does not hold the good images it was made from; name their folder with --sources.')
    by_stem, pairs = {path.stem: path for path in list_images(sources)}, []
    for edit in list_images(folder / 'images'):
        image, mask, number, defect_type = [*edit.stem.split('-', 3), '', '', ''][:4]
        if mask and not number:
            continue  # a mask among the images
        if not defect_type or image not in by_stem:
            raise ValueError(
                f'{edit} must be named IMAGE-MASK-SAMPLE-TYPE with an image of {sources}, but there is no {image!r}; '
                'name the good images that it was made from with --sources, or take it out.'
            )
        own = [folder / place / f'{image}-{mask}.png' for place in ('masks', 'images')]
        shared = folder / 'masks' / f'{mask}-{defect_type}.png'
        file = _existing(next(filter(Path.is_file, own), shared), edit, 'mask')
        origin = dict(dict.fromkeys(ORIGIN), defect_type=defect_type, mask_kind='box', scores={})
        pairs.append(Pair(edit.stem, edit, by_stem[image], mask=file, origin=origin))
    return pairs


def _pairs_of_manifest(folder: Path, labels: Path | None) -> list[Pair]:
    records = Manifest(folder).records()
    if not records:
        raise ValueError(f'{folder} must hold finished images, but its manifest lists none; run the generator first.')
    label_of = {path.stem: path for path in list_images(labels)} if labels is not None else {}
    pairs = []
    for record in records:
        edit = folder / record.image
        source = _existing(Path(record.source), edit, 'source')
        label = record.source_label and _existing(Path(record.source_label), edit, 'source label')
        mask = _existing(folder / record.mask, edit, 'mask') if record.mask else None
        origin = {key: getattr(record, key) for key in ORIGIN}
        pairs.append(Pair(record.id, edit, source, label or label_of.get(source.stem), mask, None, origin))
    return pairs


def _existing(path: Path, edit: Path, what: str) -> Path:
    if not path.is_file():
        raise ValueError(f'the {what} of {edit} must exist, but {path} does not; restore it or correct the path.')
    return path


@dataclass(frozen=True)
class LoadedPair:
    """The arrays of a pair."""

    source: ndarray  # `(H, W, 3)` uint8 RGB, of the size of the edit
    edit: ndarray  # `(H, W, 3)` uint8 RGB
    label: ndarray  # `(H, W)` uint8
    mask: ndarray | None  # `(H, W)` bool or `None`
    probabilities: ndarray | None  # `(K + 1, H, W)` float32 or `None`


def load_pair(pair: Pair, num_classes: int) -> LoadedPair:
    """Read a pair; a source of another size is brought to that of its edit, as the generator did.

    Raises:
        ValueError: naming the file that is of another shape, or has label values of no class.
    """
    edit, source = read_image(pair.edit), read_image(pair.source)
    size = edit.shape[:2]
    label = np.zeros(source.shape[:2], np.uint8)
    if pair.label is not None:
        label = read_label(pair.label, num_classes, source.shape[:2])
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


def read_label(path: Path, num_classes: int, size_hw: tuple[int, int] | None = None) -> ndarray:
    """Return ``(H, W)`` uint8 class indices, 255 for ignore.

    Raises:
        ValueError: if the file holds colours or values of no class, or has another size than ``size_hw``.
    """
    with Image.open(path) as image:
        values = np.array(image)
    if values.ndim != 2:
        raise ValueError(
            f'the label {path} must have one channel, got {values.shape}; convert it with tools/convert_dataset.py.'
        )
    wrong = sorted({int(v) for v in np.unique(values)} - {*range(num_classes), 255})
    if wrong:
        raise ValueError(
            f'the label {path} must hold values below {num_classes} or 255, got {wrong[:5]}; name all classes.'
        )
    if size_hw is not None and values.shape != size_hw:
        raise ValueError(
            f'the label {path} must have the size of its image, {size_hw[1]}x{size_hw[0]} (width x height), but it has '
            f'{values.shape[1]}x{values.shape[0]}; export it at the size of the image.'
        )
    return values.astype(np.uint8)


def learn_from_folders(images: Path, labels: Path, num_classes: int) -> Appearance:
    """Learn how defects look from all images of a folder that have a label map of the same name."""
    label_of = {path.stem: path for path in list_images(labels)}
    known = [(path, label_of[path.stem]) for path in list_images(images) if path.stem in label_of]
    if not known:
        raise ValueError(
            f'{images} and {labels} must share names, but no label map belongs to an image; correct the paths.'
        )
    return learn_appearance(((read_image(path), read_label(label, num_classes)) for path, label in known), num_classes)


def estimate_noise(pairs: Sequence[Pair], num_classes: int, reach: int) -> ndarray | None:
    """Return the reconstruction noise at each place over the pairs; ``None`` if they are too few or differ in size."""
    least, most = NOISE_PAIRS
    if len(pairs) < least:
        return None
    chosen = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int))]
    differences = []
    for pair in track(chosen, 'noise of the reconstruction', len(chosen)):
        loaded = load_pair(pair, num_classes)
        differences.append(difference_of(loaded.source, loaded.edit, reach).astype(np.float16))
        if differences[-1].shape != differences[0].shape:
            return None
    return set_noise(differences)


def relabel_pairs(
    pairs: Sequence[Pair],
    appearance: Appearance,
    classes: Sequence[str],
    out: Path,
    noise: ndarray | None,
    settings: RelabelSettings,
    limits: Limits,
    sheet_rows: int = 6,
) -> dict:
    """Relabel every pair and write the files that the module names; returns the content of ``relabel.json``.

    Files of an earlier run are replaced one by one. ``noise`` is that of :func:`estimate_noise`; ``sheet_rows`` is the
    number of edits in each image for the reviewer.
    """
    entries, defect_pixels = [], []
    grids = ReviewGrids(out / 'sheets', classes, sheet_rows)
    for pair in track(pairs, 'labels', len(pairs)):
        loaded = load_pair(pair, len(classes))
        source, edit, label = loaded.source, loaded.edit, loaded.label
        at_place = noise if noise is not None and noise.shape[:2] == edit.shape[:2] else None
        found = relabel(source, edit, label, appearance, at_place, loaded.probabilities, settings)
        verdict = judge(source, edit, label, found, loaded.mask, limits)
        write_image(out / 'labels' / f'{pair.name}.png', found.label)
        entry = dict(
            name=pair.name,
            edit=str(pair.edit),
            source=str(pair.source),
            source_label=str(pair.label) if pair.label else None,
            mask=str(pair.mask) if pair.mask else None,
            label=f'labels/{pair.name}.png',
            accepted=verdict.accepted,
            reasons=list(verdict.reasons),
            scores=verdict.scores,
            fates=count_fates(found.components),
            components=[_component_entry(c) for c in found.components],
            origin=dict(pair.origin),
        )
        entries.append(entry)
        defect_pixels.append(int(((found.label > 0) & (found.label != 255)).sum()))
        grids.add(loaded, found.label, found.score, entry)
    grids.flush()
    content = dict(
        version=VERSION,
        classes=list(classes),
        settings=asdict(settings),
        limits=asdict(limits),
        noise='pair' if noise is None else 'set and pair',
        appearance=dict(
            classes=list(appearance.classes),
            means=appearance.means.round(3).tolist(),
            surface_range=list(appearance.surface_range),
        ),
        entries=entries,
    )
    write_json(out / 'relabel.json', content)
    write_review(out / 'review.csv', entries, grids.file_of, defect_pixels)
    return content


def _component_entry(component: Component) -> dict:
    values = asdict(component)
    rounded = {k: round(values[k], 3) for k in ('retained', 'visibility', 'distance')}
    return {**values, 'box': list(component.box), **rounded}


def summarise(content: dict) -> str:
    """Return the counts of a run in a few lines."""
    entries = content['entries']
    kept = [e for e in entries if e['accepted']]
    reasons = Counter(reason for entry in entries for reason in entry['reasons'])
    why = ', '.join(f'{k}: {v}' for k, v in sorted(reasons.items()))
    lines = [f'{len(entries)} edits: {len(kept)} accepted, {len(entries) - len(kept)} rejected{why and f" ({why})"}']
    for title, chosen in (('all', entries), ('accepted', kept)):
        total = {fate: sum(e['fates'][fate] for e in chosen) for fate in FATE_COLOURS}
        lines.append(f'defects of {title} edits: ' + ', '.join(f'{v} {k}' for k, v in total.items()))
    return '\n'.join(lines)


class ReviewGrids:
    """Collects relabelled edits and writes an image for the reviewer whenever ``rows`` of them are there."""

    def __init__(self, folder: Path, classes: Sequence[str], rows: int = 6, cell: int = 384) -> None:
        self.folder, self.classes, self.rows, self.cell = folder, list(classes), rows, cell
        self.palette = default_palette(len(self.classes))
        self.waiting: list[tuple[str, list[ndarray], list[str]]] = []
        self.file_of: dict[str, str] = {}

    def add(self, loaded: LoadedPair, label: ndarray, score: ndarray, entry: dict) -> None:
        """Take one edit with its new label, change score and entry; writes an image if it is the last that fits."""
        images = [
            loaded.source,
            loaded.edit,
            heat_map(score),
            overlay_labels(loaded.edit, loaded.label, self.palette, 0.6),
            overlay_labels(loaded.edit, label, self.palette, 0.6),
        ]
        height, width = loaded.edit.shape[:2]
        scale = min(1.0, self.cell / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        images = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
        for component in entry['components']:
            left, top, width, height = (round(v * size[1] / loaded.edit.shape[0]) for v in component['box'])
            corners = (left - 3, top - 3), (left + width + 2, top + height + 2)
            cv2.rectangle(images[-1], *corners, FATE_COLOURS[component['fate']], 1)
        verdict = 'accepted' if entry['accepted'] else 'rejected: ' + ', '.join(entry['reasons'])
        fates = ', '.join(f'{v} {k}' for k, v in entry['fates'].items() if v) or 'no defect'
        structure = f'structure {entry["scores"]["structure"]:.2f}'
        self.waiting.append((entry['name'], images, [entry['name'], verdict, structure, 'old label', fates]))
        if len(self.waiting) == self.rows:
            self.flush()

    def flush(self) -> None:
        """Write what is left."""
        if not self.waiting:
            return
        names, rows, captions = zip(*self.waiting, strict=True)
        file = f'sheet_{len(set(self.file_of.values())) + 1:03d}.jpg'
        titles = ['source', 'edit', 'change above noise', 'copied label', 'new label']
        colours = [*self.palette[1:], *FATE_COLOURS.values()]
        footer = legend([*self.classes[1:], *FATE_COLOURS], colours, size=12)
        grid = image_grid(rows, column_titles=titles, captions=captions, size=12, footer=footer)
        done, data = cv2.imencode('.jpg', grid[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not done:
            raise RuntimeError(f'{file} of {grid.shape} could not be encoded.')
        write_bytes(self.folder / file, data.tobytes())
        self.file_of.update(dict.fromkeys(names, file))
        self.waiting = []


def heat_map(score: ndarray, full: float = 12.0) -> ndarray:
    """Return ``(H, W, 3)`` uint8 RGB of a change score: black is 0, brightest are ``full`` standard deviations."""
    grey = np.clip(score / full * 255, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1].copy()


def write_review(
    path: Path, entries: Sequence[Mapping], file_of: Mapping[str, str], defect_pixels: Sequence[int]
) -> None:
    """Write ``review.csv``; decisions and notes of an earlier one of the same edits are carried over."""
    names = {entry['name'] for entry in entries}
    former = {row['name']: row for row in _read_rows(path) if row.get('name')} if path.is_file() else {}
    if any(row.get('decision') and name not in names for name, row in former.items()):
        raise ValueError(
            f'{path} holds decisions on edits that are not in this run; move it away, or relabel all edits.'
        )
    rows = [
        dict(
            name=entry['name'],
            verdict=ACCEPT if entry['accepted'] else REJECT,
            reasons='; '.join(entry['reasons']),
            **entry['fates'],
            structure=entry['scores']['structure'],
            shift=entry['scores']['shift'],
            changed_share=entry['scores']['changed'],
            defect_pixels=pixels,
            sheet=file_of[entry['name']],
            **{key: former.get(entry['name'], {}).get(key) or '' for key in REVIEWED},
        )
        for entry, pixels in zip(entries, defect_pixels, strict=True)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


@dataclass(frozen=True)
class Decision:
    """What a reviewer said of one edit."""

    accepted: bool | None  # `True`, `False`, or `None` if nothing was said
    corrected: Path | None = None  # label map that replaces the automatic one


def read_decisions(path: Path, names: Sequence[str]) -> dict[str, Decision]:
    """Read the decisions of a reviewer on the edits ``names``; ``ValueError`` names the file and the row.

    The table has the columns ``name`` and ``decision``, perhaps ``corrected``; others are ignored.
    """
    if not path.is_file():
        raise ValueError(f'the review must be an existing CSV file, but {path} is not; relabel writes review.csv.')
    rows = _read_rows(path)
    if rows and not {'name', 'decision'} <= set(rows[0]):
        raise ValueError(f'{path} must have the columns name and decision, got {sorted(map(str, rows[0]))}.')
    decisions: dict[str, Decision] = {}
    for number, row in enumerate(rows, start=2):
        word = (row['decision'] or '').strip().lower()
        if word not in ('', ACCEPT, REJECT):
            raise ValueError(f'{path}:{number}: `decision` must be accept, reject or empty, got {row["decision"]!r}.')
        if row['name'] not in names:
            if word:
                raise ValueError(f'{path}:{number}: no edit is named {row["name"]!r}; correct or remove the row.')
            continue
        corrected = (row.get('corrected') or '').strip()
        place = path.parent / corrected if corrected else None
        if place is not None and not place.is_file():
            raise ValueError(
                f'{path}:{number}: `corrected` must name a label map beside this file, but {place} is none.'
            )
        decisions[row['name']] = Decision({'': None, ACCEPT: True, REJECT: False}[word], place)
    return decisions


def _read_rows(path: Path) -> list[dict]:
    with path.open(encoding='utf-8-sig', newline='') as file:
        return list(csv.DictReader(file))
