"""CutPaste against a PIL version of the same steps, and Perlin anomalies against anomalib's generator, on one thread.

Run from the root of the repository::

    python benchmarks/shapes.py --anomalib path/to/site-packages

anomalib is a peer, not a dependency: install it in an environment of its own and name its site-packages, or the folder
of an unpacked wheel. Without it the Perlin rows say so.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import math
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch)

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from mmdefect.synthesis.cutpaste import cut_paste, cut_paste_3way
from mmdefect.synthesis.library import Donor
from mmdefect.synthesis.operations import NUM_UNIFORMS, OperationRanges, sample_operations
from mmdefect.synthesis.perlin import PerlinRanges, perlin_anomaly, perlin_noise
from mmdefect.synthesis.render.arrays import warp_donor
from mmdefect.synthesis.sampler import uniforms

JITTER = transforms.ColorJitter(0.1, 0.1, 0.1, 0.1)
TO_TENSOR = transforms.ToTensor()


def pil_normal(image: Image.Image) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Cut a rectangle, jitter its colours and paste it elsewhere, with PIL; return also where it went."""
    width, height = image.size
    area = random.uniform(0.02, 0.15) * width * height
    aspect = math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
    cut_w, cut_h = min(width, round(math.sqrt(area * aspect))), min(height, round(math.sqrt(area / aspect)))
    left, top = random.randint(0, width - cut_w), random.randint(0, height - cut_h)
    patch = JITTER(image.crop((left, top, left + cut_w, top + cut_h)))
    result = image.copy()
    left, top = random.randint(0, width - cut_w), random.randint(0, height - cut_h)
    result.paste(patch, (left, top))
    return result, (left, top, left + cut_w, top + cut_h)


def pil_scar(image: Image.Image) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Cut a thin strip, jitter its colours, rotate it with alpha and paste it elsewhere, with PIL."""
    width, height = image.size
    grow = math.sqrt(width * height) / 256
    cut_w, cut_h = round(random.uniform(2, 16) * grow), round(random.uniform(10, 25) * grow)
    left, top = random.randint(0, width - cut_w), random.randint(0, height - cut_h)
    patch = JITTER(image.crop((left, top, left + cut_w, top + cut_h))).convert('RGBA')
    patch = patch.rotate(random.uniform(-45, 45), expand=True)
    result = image.copy()
    left, top = random.randint(0, width - patch.width), random.randint(0, height - patch.height)
    result.paste(patch, (left, top), mask=patch.getchannel('A'))
    return result, (left, top, left + patch.width, top + patch.height)


def pil_label(new: Image.Image, old: Image.Image, box: tuple[int, int, int, int] | None) -> np.ndarray:
    """Label what moved by more than one grey level; only the box of the paste is looked at."""
    label = np.zeros((old.height, old.width), np.uint8)
    if box is not None:
        change = np.abs(np.asarray(new.crop(box)).astype(np.int16) - np.asarray(old.crop(box)))
        largest = np.maximum(np.maximum(change[..., 0], change[..., 1]), change[..., 2])  # faster than over an axis
        label[box[1] : box[3], box[0] : box[2]] = largest > 1
    return label


def pil_views(image: Image.Image) -> tuple:
    """Return the three views with the boxes of their pastes."""
    return (image, None), pil_normal(image), pil_scar(image)


def pil_3way(image: Image.Image, finish: str) -> tuple:
    """Return three views as PIL makes them, as arrays with exact labels, or as float tensors with int64 labels."""
    views = pil_views(image)
    if finish == 'images':
        return views
    labels = [pil_label(view, image, box) for view, box in views]
    if finish == 'arrays':
        return tuple((np.asarray(view), label) for (view, _), label in zip(views, labels, strict=True))
    return tuple(
        (TO_TENSOR(view), torch.from_numpy(label).long()) for (view, _), label in zip(views, labels, strict=True)
    )


def pil_one(make: Callable, image: Image.Image) -> tuple:
    """Return one view as an array with its label."""
    view, box = make(image)
    return np.asarray(view), pil_label(view, image, box)


def cutpaste_rows(sizes: list[int], seconds: float) -> list[dict]:
    """Race both implementations of CutPaste."""
    rows = []
    for size in sizes:
        pixels = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        tensor, generator = TO_TENSOR(image), torch.Generator().manual_seed(0)
        random.seed(0)
        torch.manual_seed(0)  # ColorJitter samples from the global generator
        array = np.asarray(image)
        arrays = functools.partial(cut_paste_3way, array, generator, is_bgr=False)
        races = [
            ('3-way, 8-bit arrays and exact labels', arrays, lambda: pil_3way(image, 'arrays')),
            (
                '3-way, float tensors and exact labels',
                lambda: cut_paste_3way(tensor, generator),
                lambda: pil_3way(image, 'tensors'),
            ),
            (
                '3-way, 8-bit arrays and exact labels, PIL stops at images without labels',
                arrays,
                lambda: pil_3way(image, 'images'),
            ),
        ]
        for kind, make in (('normal', pil_normal), ('scar', pil_scar)):
            races.append(
                (
                    f'{kind}, 8-bit array and label',
                    functools.partial(cut_paste, array, generator, kind=kind, is_bgr=False),
                    functools.partial(pil_one, make, image),
                )
            )
        for work, ours, theirs in races:
            rows.append(compare(f'CutPaste {work}', size, ours, theirs, 'PIL', seconds))
    return rows


def compare(work: str, size: int, ours: Callable, theirs: Callable | None, peer: str, seconds: float) -> dict:
    """Return one row of the table; without a peer, its columns say so."""
    times = common.race({'mmdefect': ours} | ({'peer': theirs} if theirs else {}), seconds)
    own, other = times['mmdefect'], times.get('peer')
    return {
        'work': work,
        'size': size,
        'mmdefect ms': own['median_ms'],
        'spread ms': own['spread_ms'],
        'peer': peer,
        'peer ms': other['median_ms'] if other else 'not installed',
        'peer spread ms': other['spread_ms'] if other else 'not installed',
        'times faster': round(other['median_ms'] / own['median_ms'], 2) if other else 'not installed',
        'by minimum': round(other['min_ms'] / own['min_ms'], 2) if other else 'not installed',
    }


def import_anomalib(path: Path | None) -> types.ModuleType | None:
    """Import anomalib's Perlin module, by name or from a folder; only this module and its own imports are run.

    Its parent packages import the whole training stack; they are entered by path without running them.
    """
    if path is None:
        found = importlib.util.find_spec('anomalib')
        if found is None:
            return None
        root = Path(found.submodule_search_locations[0])
    else:
        root = path / 'anomalib'
        if not (root / 'data/utils/generators/perlin.py').is_file():
            raise SystemExit(f'--anomalib must be a folder with anomalib/data/utils/generators/perlin.py, got {path}.')
    for name in ('anomalib', 'anomalib.data', 'anomalib.data.utils', 'anomalib.data.utils.generators'):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split('.')[1:]))]
        sys.modules[name] = package
    return importlib.import_module('anomalib.data.utils.generators.perlin')


def anomalib_version(path: Path | None) -> str:
    """Return the version of the peer as its metadata says."""
    found = list(importlib.metadata.distributions(name='anomalib', **({'path': [str(path)]} if path else {})))
    return found[0].version if found else 'not installed'


def perlin_rows(sizes: list[int], seconds: float, peer: types.ModuleType | None) -> list[dict]:
    """Race noise against noise, whole anomaly against whole anomaly, and our whole anomaly against their noise."""
    rows = []
    for size in sizes:
        image = torch.rand(3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
        image = torch.nn.functional.interpolate(image[None], (size, size), mode='bicubic')[0].clamp(0, 1)
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)

        def noise(size: int = size, generator: torch.Generator = generator) -> torch.Tensor:
            octaves = torch.randint(0, 6, (2,), generator=generator).tolist()
            return perlin_noise((size, size), (2 ** octaves[0], 2 ** octaves[1]), octaves[0])

        anomaly = functools.partial(perlin_anomaly, image, generator)
        upright = functools.partial(anomaly, ranges=PerlinRanges(rotation_range=(0, 0)))

        their_noise = their_anomaly = None
        if peer is not None:
            their_noise = functools.partial(peer.generate_perlin_noise, size, size, device=torch.device('cpu'))
            their_anomaly = functools.partial(peer.PerlinAnomalyGenerator(probability=1.0), image)
        races = [
            ('noise against its noise', noise, their_noise),
            ('whole anomaly against its noise alone', anomaly, their_noise),
            ('whole anomaly, not rotated, against its noise alone', upright, their_noise),
            ('whole anomaly against its whole generator', anomaly, their_anomaly),
        ]
        rows += [compare(f'Perlin {work}', size, ours, theirs, 'anomalib', seconds) for work, ours, theirs in races]
    return rows


def operation_rows(seconds: float) -> list[dict]:
    """Time sampling and applying the operations as a worker does; no peer does these steps on a defect and its mask."""
    rows, generator, rng = [], torch.Generator().manual_seed(0), np.random.default_rng(0)
    cases = (
        ('8 operations, flips and elastic, half of each', OperationRanges()),
        ('all 8 operations, flips and elastic', OperationRanges(probability=1, elastic_probability=1)),
        ('all 8 operations', OperationRanges(probability=1, flip_probability=0, elastic_probability=0)),
    )
    for size in (32, 96):
        image, mask = rng.integers(0, 256, (size, size, 3), dtype=np.uint8), np.full((size, size), 2, np.uint8)
        mask[size // 4 : 3 * size // 4, size // 3 : 2 * size // 3] = 1
        donor = Donor(image, mask, 1, int((mask == 1).sum()), '', (0, 0), mask.shape, 1.0)
        for work, ranges in cases:

            def apply(donor: Donor = donor, ranges: OperationRanges = ranges) -> None:
                operations = sample_operations(uniforms(generator, NUM_UNIFORMS), ranges)
                warp_donor(donor, (1.0, 1.0), operations, 0).coloured(operations)

            times = common.race({work: apply}, seconds)[work]
            rows.append({'work': work, 'crop': size, 'ms': times['median_ms'], 'spread ms': times['spread_ms']})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--anomalib', type=Path, help='site-packages, or unpacked wheel, with anomalib in it')
    parser.add_argument('--seconds', type=float, default=1.0, help='per contestant')
    parser.add_argument('--sizes', type=int, nargs='+', default=[256, 512, 1024])
    parser.add_argument('--out', type=Path, default=common.RESULTS, help='folder of the JSON record')
    arguments = parser.parse_args()
    common.use_one_thread()
    peer = import_anomalib(arguments.anomalib)
    rows = cutpaste_rows(arguments.sizes, arguments.seconds) + perlin_rows(arguments.sizes, arguments.seconds, peer)
    operations = operation_rows(arguments.seconds)
    print(common.format_table(rows), '\n')
    print(common.format_table(operations), '\n')
    versions = {
        'anomalib': anomalib_version(arguments.anomalib) if peer else 'not installed',
        **{name: importlib.metadata.version(name) for name in ('pillow', 'torchvision')},
    }
    # the record travels: where the peer lies on this machine does not
    command = ' '.join('SITE_PACKAGES' if word == str(arguments.anomalib) else word for word in ['python', *sys.argv])
    print(
        common.write_record(
            'shapes',
            {'against peers': rows, 'operations': operations},
            {'peers': versions, 'command': command},
            arguments.out,
        )
    )


if __name__ == '__main__':
    main()
