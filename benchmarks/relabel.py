"""How far labels of edits can be trusted: edits whose exact label is known.

Run from the root of the repository, with a folder of real edits of a data set in the layout of the cutting inserts::

    python benchmarks/relabel.py data/wta512 data/wta512_edits/img_dir --prefix new_

Sources are clean training images that have a real edit. Donors come from labelled training images that have none. Up
to three defects are drawn for an image: the first is pasted into source and edit (kept), the second into the source
only (vanished), the third into the edit only (new). The edit is made in two ways:

* ``diffusion``: the real edit plus what the pastes add, blurred as the autoencoder blurs. The noise is that
  of diffusion, but what the real edit added by itself has no label here, so precision is a lower bound;
* ``simulated``: blur, tone and noise as measured on the real edits. Every pixel of its label is exact.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch)

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdefect.diffusion.images import read_image
from mmdefect.diffusion.relabel import RelabelSettings, judge, relabel
from mmdefect.diffusion.relabel_change import (
    difference_of,
    learn_appearance,
    nearest_class,
    set_noise,
    to_lab,
    visible_defects,
)
from mmdefect.diffusion.relabel_run import find_pairs, load_pair, read_label
from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.library import CuttingRule, DefectLibrary, LabelledImage, build_library
from mmdefect.synthesis.places import location_codes
from mmdefect.synthesis.sampler import Background

CLASSES = ('normal', 'attached', 'broken')
SIZES = ((0, 16), (16, 64), (64, 10**9))


def measure_reconstruction(pairs) -> dict[str, float]:
    """Measure what the autoencoder does to unchanged area: blur, tone and noise, medians over pairs."""
    rows = []
    for pair in pairs:
        source, edit = (to_lab(x)[..., 0] for x in (pair.source, pair.edit))
        flat = (np.abs(source - edit) < 6) & (source < 60)
        errors = {}
        for sigma in (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0):
            blurred = cv2.GaussianBlur(source, (0, 0), sigma) if sigma else source
            high = [x - cv2.GaussianBlur(x, (0, 0), 4.0) for x in (blurred, edit)]
            errors[sigma] = np.median(np.abs(high[0] - high[1])[flat])
        best = min(errors, key=errors.get)
        slow = cv2.GaussianBlur(edit - source, (0, 0), 20.0)[flat]
        rows.append((best, 1.4826 * errors[best], slow.mean(), slow.std()))
    return dict(zip(('blur_sigma', 'noise_sd', 'offset', 'drift_sd'), map(float, np.median(rows, axis=0)), strict=True))


def simulate(target: np.ndarray, facts: dict, rng: np.random.Generator) -> np.ndarray:
    """Return what the measured reconstruction would make of an image; uint8 RGB."""
    blurred = blur(target, facts)
    # An L unit of these dark grey images is about 2.4 grey levels.
    slow = cv2.GaussianBlur(rng.normal(0, 1, target.shape[:2]).astype(np.float32), (0, 0), 20.0)
    slow *= 2.4 * facts['drift_sd'] / max(float(slow.std()), 1e-6)
    fine = cv2.GaussianBlur(rng.normal(0, 1, target.shape).astype(np.float32), (0, 0), 0.7)
    fine *= 2.4 * facts['noise_sd'] / float(fine.std())
    return np.clip(np.round(blurred + slow[..., None] + fine + 2.4 * facts['offset']), 0, 255).astype(np.uint8)


def blur(image: np.ndarray, facts: dict) -> np.ndarray:
    """Return the image as sharp as the autoencoder leaves it, float32."""
    image = image.astype(np.float32)
    return cv2.GaussianBlur(image, (0, 0), facts['blur_sigma']) if facts['blur_sigma'] else image


def paste_scenario(engine: PasteEngine, clean: np.ndarray, seed: int):
    """Return source and target images (RGB) with their labels, and the masks of kept, vanished and new defects."""
    codes = location_codes(clean.shape[:2], find_foreground(clean))
    empty = np.zeros(clean.shape[:2], np.uint8)
    background = Background(empty, codes, clean.shape[:2])
    pastes, _ = engine.sample(background, torch.Generator().manual_seed(seed))
    source, target = ((clean[..., ::-1].copy(), empty.copy()) for _ in range(2))
    masks = {}
    for paste, fate in zip(pastes, ('kept', 'vanished', 'new'), strict=False):
        for (image, label), fates in ((source, ('kept', 'vanished')), (target, ('kept', 'new'))):
            if fate in fates:
                before = label.copy()
                if engine.write(image, label, [paste])[0]:
                    masks[fate] = label != before
    return source[0][..., ::-1].copy(), source[1], target[0][..., ::-1].copy(), target[1], masks


class Tally:
    """Counts over images."""

    def __init__(self) -> None:
        self.overlap = {
            name: np.zeros((4, 2)) for name in ('new label', 'copied label')
        }  # any, each class, new defects
        self.found = {key: [0, 0] for key in ('kept', 'vanished', *(f'new {a}-{b}' for a, b in SIZES))}
        self.drawn, self.stray = 0, 0

    def add(self, label: np.ndarray, copied: np.ndarray, truth: np.ndarray, masks: dict) -> None:
        for name, found in (('new label', label), ('copied label', copied)):
            for row, (a, b) in enumerate([(found > 0, truth > 0), (found == 1, truth == 1), (found == 2, truth == 2)]):
                self.overlap[name][row] += ((a & b).sum(), (a | b).sum())
            if 'new' in masks:
                near = cv2.dilate(masks['new'].astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
                a, b = (found > 0) & near, masks['new']
                self.overlap[name][3] += ((a & b).sum(), (a | b).sum())
        for fate, mask in masks.items():
            covered = (label > 0)[mask].mean()
            key = fate
            if fate == 'new':
                key = next(f'new {a}-{b}' for a, b in SIZES if a <= mask.sum() < b)
            self.found[key][0] += covered < 0.1 if fate == 'vanished' else covered >= 0.25
            self.found[key][1] += 1
        count, numbers = cv2.connectedComponents((label > 0).astype(np.uint8), connectivity=8)
        # What is left of a vanished defect is counted there, not as a stray.
        near_truth = cv2.dilate(((truth > 0) | (copied > 0)).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        self.drawn += count - 1
        self.stray += count - 1 - len(set(np.unique(numbers[near_truth])) - {0})

    def rows(self, way: str) -> list[dict]:
        rows = []
        for name, counts in self.overlap.items():
            ious = [round(float(a / max(b, 1)), 3) for a, b in counts]
            rows.append(
                dict(
                    edits=way,
                    label=name,
                    **dict(zip(('IoU', *(f'IoU {c}' for c in CLASSES[1:]), 'IoU new'), ious, strict=True)),
                )
            )
        return rows

    def recalls(self, way: str) -> dict:
        values = {
            key.replace(f'-{10**9}', '+') + ' px' * key.startswith('new'): f'{a} of {b}'
            for key, (a, b) in self.found.items()
        }
        return dict(edits=way, **values, drawn=self.drawn, stray=self.stray)


def class_accuracy(images: list, folds: int = 2) -> dict[str, str]:
    """Tell the class of each source defect from its looks, learned from the other half of the images."""
    right = {k: [0, 0] for k in range(1, len(CLASSES))}
    for fold in range(folds):
        learned = learn_appearance((p for i, p in enumerate(images) if i % folds != fold), len(CLASSES))
        for image, label in images[fold::folds]:
            for class_id, features, _ in visible_defects(image, label):
                right[class_id][0] += nearest_class(features, learned)[0] == class_id
                right[class_id][1] += 1
    return {CLASSES[k]: f'{a} of {b}' for k, (a, b) in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('edits', type=Path)
    parser.add_argument('--prefix', default='')
    parser.add_argument('--images', type=int, default=40)
    parser.add_argument('--repeats', type=int, default=2, help='scenarios for each image')
    parser.add_argument('--blend', default='feather', help='of the pastes, see PolicySpec')
    args = parser.parse_args()
    common.use_one_thread()
    images, labels = args.data / 'img_dir/train', args.data / 'ann_dir/train'
    pairs = find_pairs(args.edits, images, labels, args.prefix)
    loaded = [load_pair(pair, len(CLASSES)) for pair in pairs]
    edited = {pair.source.name for pair in pairs}
    donors = [(path, read_label(labels / path.name, 3)) for path in sorted(images.glob('*.png'))]
    donors = [(path, label) for path, label in donors if label.any()]
    appearance = learn_appearance(((read_image(p), label) for p, label in donors), len(CLASSES))
    noise = set_noise(difference_of(p.source, p.edit).astype(np.float16) for p in loaded)
    settings = RelabelSettings()
    clean = [
        p
        for p in loaded
        if not p.label.any()
        and judge(
            p.source, p.edit, p.label, relabel(p.source, p.edit, p.label, appearance, noise, settings=settings)
        ).accepted
    ]
    facts = measure_reconstruction(clean)
    print('reconstruction, measured:', {k: round(v, 3) for k, v in facts.items()})
    tallies = {'diffusion': Tally(), 'simulated': Tally()}
    with tempfile.TemporaryDirectory() as folder:
        free = [
            LabelledImage(
                str(path),
                lambda path=path, label=label: (read_image(path), label),
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path, label in donors
            if path.name not in edited
        ]
        build_library(free, CuttingRule(), Path(folder) / 'library')
        policy = dict(
            number={3: 1},
            places=dict(density=1, source=1),
            blends={args.blend: 1},
            max_extent=0.25,
            label='mask',
            tolerance=0.024,
        )
        engine = PasteEngine(DefectLibrary(Path(folder) / 'library'), policy)
        for index, pair in enumerate(clean[: args.images]):
            for repeat in range(args.repeats):
                seed = 1000 * repeat + index
                source, source_label, target, truth, masks = paste_scenario(engine, pair.source, seed)
                added = blur(target, facts) - blur(pair.source, facts)
                ways = dict(
                    diffusion=np.clip(np.round(pair.edit + added), 0, 255).astype(np.uint8),
                    simulated=simulate(target, facts, np.random.default_rng(seed)),
                )
                for way, edit in ways.items():
                    found = relabel(source, edit, source_label, appearance, noise, settings=settings)
                    tallies[way].add(found.label, source_label, truth, masks)
    overlaps = [row for way, tally in tallies.items() for row in tally.rows(way)]
    recalls = [tally.recalls(way) for way, tally in tallies.items()]
    accuracy = class_accuracy([(read_image(p), label) for p, label in donors])
    print(common.format_table(overlaps), common.format_table(recalls), sep='\n\n')
    print('class of source defects, two folds:', accuracy)
    path = common.write_record(
        'relabel',
        dict(
            reconstruction=facts,
            overlaps=overlaps,
            recalls=recalls,
            classes=accuracy,
            clean_images=len(clean),
            free_images=len(free),
        ),
    )
    print(path)


if __name__ == '__main__':
    main()
