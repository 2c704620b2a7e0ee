"""Exact Poisson composition against OpenCV's seamlessClone on the same patch, and our own parts.

    python benchmarks/poisson.py            # about two minutes
    python benchmarks/poisson.py --quick    # a few seconds, for a look

OpenCV gets a destination that is only 16 pixels larger than the patch, 8-bit images, and a copy of the mask, because
it overwrites the one it is given. We get an 8-bit target and a float32 source, as a worker does. 'cached' has the
factor of the mask, 'fresh' makes it within the timed call. The tensors, with their derivative, are solved in float32.
'disc' is a disc with a hole, 'rectangle' a full rectangle.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cv2
import numpy as np
import torch
from common import format_table, race, use_one_thread, write_record

from mmdefect.synthesis.poisson.blends import poisson_blend
from mmdefect.synthesis.poisson.membrane import Membrane
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.render.arrays import compose

SIDES = (32, 48, 64, 96, 128, 192, 256)
#: The error of a worker is that of rounding to 8 bits.
BARS = {'cached_ratio': 3.0, 'fresh_ratio': 1.0, 'backward_ratio': 1.5, 'max_error': 0.51 / 255}
UNLIMITED = PolicySpec(max_boundary_shade=2, max_boundary_cast=2)


def make_mask(shape: str, side: int) -> np.ndarray:
    """``(side, side)`` bool with a free ring of one pixel."""
    mask = np.zeros((side, side), dtype=bool)
    if shape == 'rectangle':
        mask[1:-1, 1:-1] = True
        return mask
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    distance = np.hypot(rows, columns)
    return (distance < side / 2 - 1) & (distance > side / 16)


def opencv_paste(target: np.ndarray, source: np.ndarray, mask: np.ndarray):
    """A call of seamlessClone as a user would make it."""
    destination = np.pad(target, ((8, 8), (8, 8), (0, 0)), mode='edge')
    # OpenCV puts the middle of the bounding box of the mask here; the box is the patch without its ring.
    centre = (destination.shape[1] // 2, destination.shape[0] // 2)
    bytes_mask = mask.astype(np.uint8) * 255
    return lambda: cv2.seamlessClone(source, destination, bytes_mask.copy(), centre, cv2.NORMAL_CLONE)


def measure(shape: str, side: int, seconds: float) -> dict[str, object]:
    """Times, ratios and error of one mask."""
    random = np.random.default_rng(side)
    target_bytes, source_bytes = random.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    donor = source_bytes / np.float32(255)
    target, source = (
        torch.from_numpy(image).permute(2, 0, 1).float().contiguous() / 255 for image in (target_bytes, source_bytes)
    )
    array = make_mask(shape, side)
    mask = torch.from_numpy(array)[None]
    kept = Membrane(array)
    weight = torch.rand_like(target)
    leaves = target.clone().requires_grad_(), source.clone().requires_grad_()
    pasted = poisson_blend(*leaves, mask)
    times = race(
        {
            'opencv': opencv_paste(target_bytes, source_bytes, array),
            'cached': lambda: compose(target_bytes, donor, kept, 'poisson', UNLIMITED),
            'fresh': lambda: compose(target_bytes, donor, Membrane(array), 'poisson', UNLIMITED),
        },
        seconds,
    )
    times |= race(
        {
            'forward': lambda: poisson_blend(*leaves, mask),
            'backward': lambda: torch.autograd.grad(pasted, leaves, weight, retain_graph=True),
        },
        seconds,
    )
    times |= race({'mixed': lambda: poisson_blend(target, source, mask, mixed=True)}, seconds / 2)
    exact = poisson_blend(target.double(), source.double(), mask).permute(1, 2, 0).numpy()
    made, _ = compose(target_bytes, donor, kept, 'poisson', UNLIMITED)
    median = {name: figures['median_ms'] for name, figures in times.items()}
    return {
        'mask': shape,
        'side': side,
        'pixels': int(array.sum()),
        'cached_ratio': median['opencv'] / median['cached'],
        'fresh_ratio': median['opencv'] / median['fresh'],
        'backward_ratio': median['backward'] / median['forward'],
        'max_error': float(np.abs(made / 255 - exact).max()),
        'times': times,
    }


def misses(row: dict[str, object]) -> list[str]:
    """Which bars a row does not reach."""
    missed = [name for name in ('cached_ratio', 'fresh_ratio') if row[name] < BARS[name]]
    return missed + [name for name in ('backward_ratio', 'max_error') if row[name] > BARS[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='short timing, nothing is written')
    arguments = parser.parse_args()
    use_one_thread()
    rows = [measure(shape, side, 0.05 if arguments.quick else 0.8) for shape in ('disc', 'rectangle') for side in SIDES]
    print(
        format_table(
            [
                {
                    **{key: row[key] for key in row if key != 'times'},
                    **{f'{name} ms': figures['median_ms'] for name, figures in row['times'].items()},
                }
                for row in rows
            ]
        )
    )
    for row in rows:
        for name in misses(row):
            print(f'missed: {name} {row[name]:.3g} (bar {BARS[name]}) for {row["mask"]} {row["side"]}')
    if not arguments.quick:
        print('written:', write_record('poisson', rows, {'bars': BARS}).name)


if __name__ == '__main__':
    main()
