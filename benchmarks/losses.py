"""Losses forward and backward on one thread: time against PyTorch, mmseg, kornia and torchvision, and peak memory.

Run from the root of the repository::

    python benchmarks/losses.py

Every contestant of a group gets the same logits and labels and ends in a gradient of the logits. Peak memory is what
PyTorch's allocator hands out above what was held before the call, from the memory events of its profiler (the peak of
the resident set in a process of its own agrees); the 24 MiB of the gradient at 8x3x512x512 are part of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch)

import torch
import torch.nn.functional as F
from kornia.losses import dice_loss, focal_loss, tversky_loss
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from mmdefect.functional.focal import sigmoid_focal_loss, softmax_focal_loss
from mmdefect.functional.region_losses import (
    centerline_dice_loss,
    defect_dice_loss,
    signed_distance_loss,
    tversky_focal_loss,
)
from mmdefect.functional.weak_box import weak_box_loss

ALPHA = [0.1, 0.3, 0.6]


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Random logits; labels with a few scratches and blobs, as many defect pixels as in inspection, a band ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    label = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    for image in label:
        row, column = torch.randint(8, min(shape[2:]) - 40, (2,), generator=generator).tolist()
        image[row : row + 3, column : column + 30] = 1
        image[column : column + 6, row : row + 6] = shape[1] - 1
        image[-8:] = 255
    return logits, label


def groups(logits: Tensor, label: Tensor) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Contestants by group; the first of each is what the others are divided by."""
    mmseg_ce = CrossEntropyLoss(avg_non_ignore=True)
    onehot = F.one_hot(label.where(label != 255, 0), logits.shape[1]).movedim(-1, 1).float()
    return {
        'softmax': {
            'torch cross_entropy': lambda: F.cross_entropy(logits, label, ignore_index=255),
            'SoftmaxFocalLoss gamma 2, alpha': lambda: softmax_focal_loss(logits, label, alpha=ALPHA),
            'SoftmaxFocalLoss gamma 2': lambda: softmax_focal_loss(logits, label),
            'SoftmaxFocalLoss gamma 0': lambda: softmax_focal_loss(logits, label, gamma=0),
            'SoftmaxFocalLoss gamma 1.5, alpha': lambda: softmax_focal_loss(logits, label, gamma=1.5, alpha=ALPHA),
        },
        'softmax, others': {
            'torch cross_entropy': lambda: F.cross_entropy(logits, label, ignore_index=255),
            'SoftmaxFocalLoss plain autograd': lambda: softmax_focal_loss(logits, label, alpha=ALPHA, fused=False),
            'WeakBoxLoss': lambda: weak_box_loss(logits, label, tau=0.1),
            'mmseg CrossEntropyLoss': lambda: mmseg_ce(logits, label, ignore_index=255),
            'kornia focal_loss gamma 2': lambda: focal_loss(
                logits, label, alpha=None, gamma=2.0, reduction='mean', ignore_index=255
            ),
        },
        'sigmoid': {
            'torchvision sigmoid_focal_loss': lambda: torchvision_focal(logits, onehot, 0.25, 2.0, 'mean'),
            'SigmoidFocalLoss': lambda: sigmoid_focal_loss(logits, label),
        },
        'areas': {
            'kornia dice_loss': lambda: dice_loss(logits, label, average='macro', ignore_index=255),
            'kornia tversky_loss': lambda: tversky_loss(logits, label, 0.3, 0.7, ignore_index=255),
            'DefectDiceLoss': lambda: defect_dice_loss(logits, label),
            'DefectDiceLoss defects only': lambda: defect_dice_loss(logits, label, defects_only=True),
            'TverskyFocalLoss': lambda: tversky_focal_loss(logits, label),
            'CenterlineDiceLoss 3 iterations': lambda: centerline_dice_loss(logits, label),
            'SignedDistanceLoss': lambda: signed_distance_loss(logits, label),
        },
    }


def peak_mib(call: Callable[[], object]) -> float:
    """Return the peak of the memory that a call allocates above what is held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == '[memory]']
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def rows_of(shape: tuple[int, ...], seconds: float) -> list[dict]:
    """Race the groups at one shape."""
    logits, label = inputs(shape)

    def forward_backward(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            logits.grad = None
            loss().backward()

        return call

    rows = []
    for group, losses in groups(logits, label).items():
        calls = {name: forward_backward(loss) for name, loss in losses.items()}
        times = common.race(calls, seconds)
        memory = {}
        for name, call in calls.items():
            logits.grad = None
            memory[name] = peak_mib(call)
        first = next(iter(losses))
        rows += [
            {
                'group': group,
                'loss': name,
                'shape': 'x'.join(map(str, shape)),
                'ms': times[name]['median_ms'],
                'spread ms': times[name]['spread_ms'],
                'time ratio': times[name]['median_ms'] / times[first]['median_ms'],
                'peak MiB': memory[name],
                'memory ratio': memory[name] / memory[first],
            }
            for name in losses
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seconds', type=float, default=4.0, help='per contestant')
    parser.add_argument('--shapes', nargs='+', default=['8x3x512x512', '8x3x256x256'], help='batch x classes x h x w')
    parser.add_argument('--out', type=Path, default=common.RESULTS, help='folder of the JSON record')
    arguments = parser.parse_args()
    common.use_one_thread()
    rows = []
    for shape in arguments.shapes:
        rows += rows_of(tuple(int(n) for n in shape.split('x')), arguments.seconds)
    print(common.format_table(rows), '\n')
    versions = {name: importlib.metadata.version(name) for name in ('kornia', 'torchvision', 'onedl-mmsegmentation')}
    print(common.write_record('losses', rows, {'peers': versions}, arguments.out))


if __name__ == '__main__':
    main()
