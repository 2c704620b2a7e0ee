"""Relabel a folder of edits: new labels, a list of what was decided and why, sheets and a table for a reviewer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmdefect.diffusion.images import list_images, read_image, write_image
from mmdefect.diffusion.relabel import RelabelSettings, count_fates, difference_of, relabel
from mmdefect.diffusion.relabel_appearance import Appearance, learn_appearance
from mmdefect.diffusion.relabel_change import set_noise
from mmdefect.diffusion.relabel_checks import Limits, judge
from mmdefect.diffusion.relabel_pairs import LoadedPair, Pair, load_pair, read_label
from mmdefect.experiments.records import write_json

VERSION = 1
#: Pairs of one size from which the noise at each place is estimated from the set, and most that are read for it.
NOISE_PAIRS = (12, 120)


@dataclass(frozen=True)
class Finished:
    """One relabelled edit, as sheets and tables need it.

    Attributes:
        pair: its files.
        loaded: its arrays.
        label: ``(H, W)`` uint8, the new label.
        score: ``(H, W)`` float32 change.
        entry: what is written to the list.
    """

    pair: Pair
    loaded: LoadedPair
    label: np.ndarray
    score: np.ndarray
    entry: dict


def learn_from_folders(images: Path, labels: Path, num_classes: int) -> Appearance:
    """Learn how defects look from all images of a folder that have a label map of the same name.

    Raises:
        ValueError: if no label map belongs to an image.
    """
    label_of = {path.stem: path for path in list_images(labels)}
    known = [(path, label_of[path.stem]) for path in list_images(images) if path.stem in label_of]
    if not known:
        raise ValueError(
            f'{images} and {labels} must share names, but no label map belongs to an image; correct the paths.'
        )
    return learn_appearance(_labelled(known, num_classes), num_classes)


def estimate_noise(
    pairs: Sequence[Pair], num_classes: int, reach: int, progress: Callable[[Iterable, str, int], Iterable]
) -> np.ndarray | None:
    """Return the reconstruction noise at each place over the pairs; ``None`` if they are too few or differ in size."""
    least, most = NOISE_PAIRS
    if len(pairs) < least:
        return None
    chosen = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int))]
    differences = []
    for pair in progress(chosen, 'noise of the reconstruction', len(chosen)):
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
    noise: np.ndarray | None,
    settings: RelabelSettings,
    limits: Limits,
    finished: Callable[[Finished], None],
    progress: Callable[[Iterable, str, int], Iterable],
) -> dict:
    """Write ``labels/<name>.png`` for every pair, and ``relabel.json`` when all are done.

    Args:
        pairs: what to relabel.
        appearance: of the source classes.
        classes: names, the normal class first.
        out: folder; files of an earlier run are replaced one by one.
        noise: see :func:`estimate_noise`.
        settings: thresholds.
        limits: what an edit may do.
        finished: called with each finished edit, for sheets.
        progress: shows how far it is.

    Returns:
        The content of ``relabel.json``.
    """
    entries = []
    for pair in progress(pairs, 'labels', len(pairs)):
        loaded = load_pair(pair, len(classes))
        shape = loaded.edit.shape[:2]
        found = relabel(
            loaded.source,
            loaded.edit,
            loaded.label,
            appearance,
            noise if noise is not None and noise.shape[:2] == shape else None,
            loaded.probabilities,
            settings,
        )
        verdict = judge(loaded.source, loaded.edit, loaded.label, found, loaded.mask, limits)
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
            components=[_component(c) for c in found.components],
            origin=dict(pair.origin),
        )
        entries.append(entry)
        finished(Finished(pair, loaded, found.label, found.score, entry))
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
    return content


def summarise(content: dict) -> str:
    """Return the counts of a run in a few lines."""
    entries = content['entries']
    kept = [e for e in entries if e['accepted']]
    reasons: dict[str, int] = {}
    for entry in entries:
        for reason in entry['reasons']:
            reasons[reason] = reasons.get(reason, 0) + 1
    lines = [
        f'{len(entries)} edits: {len(kept)} accepted, {len(entries) - len(kept)} rejected'
        + (f' ({", ".join(f"{k}: {v}" for k, v in sorted(reasons.items()))})' if reasons else '')
    ]
    for title, chosen in (('all', entries), ('accepted', kept)):
        total = {fate: sum(e['fates'][fate] for e in chosen) for fate in ('kept', 'changed', 'vanished', 'new')}
        lines.append(f'defects of {title} edits: ' + ', '.join(f'{v} {k}' for k, v in total.items()))
    return '\n'.join(lines)


def _component(component) -> dict:
    values = asdict(component)
    return {
        **values,
        'box': list(values['box']),
        **{k: round(values[k], 3) for k in ('retained', 'visibility', 'distance')},
    }


def _labelled(known: Sequence[tuple[Path, Path]], num_classes: int):
    for image, label_path in known:
        label = read_label(label_path, num_classes)
        if ((label > 0) & (label != 255)).any():
            yield read_image(image), label
