"""Eight operations on a defect and its mask: rotation, shear x and y, scale; brightness, contrast, saturation, hue.

The geometric ones, with flips and elastic deformation, are one warp; the photometric ones are one matrix. Ranges may be
tensors with gradient: a value is ``low + (high - low) * u`` with ``u`` drawn uniformly, so the bounds can be learned.
Shears are angles in degrees, as rotations are; a shear of 0.3 as a ratio is 16.7 degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import torch
from torch import Generator, Tensor

from mmdefect.synthesis.color import adjust_color
from mmdefect.synthesis.elastic import CONTROLS, check_fraction
from mmdefect.synthesis.warp import canvas_halves, inverse_matrix, warp

OPERATIONS = ('rotate', 'shear_x', 'shear_y', 'scale', 'brightness', 'contrast', 'saturation', 'hue')
#: Columns of ``Operations.values``: the operations, with scale along x and y.
VALUES = ('rotate', 'shear_x', 'shear_y', 'scale_x', 'scale_y', 'brightness', 'contrast', 'saturation', 'hue')
_IDENTITY = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 0], dtype=torch.float64)
#: Values are kept within these, also while the ranges are learned: no defect is scaled away or sheared flat.
LIMITS = torch.tensor(
    [[-180, -60, -60, 0.1, 0.1, 0, 0, 0, -0.5], [180, 60, 60, 10, 10, 3, 3, 3, 0.5]], dtype=torch.float64
)
_COLUMNS = [0, 1, 2, 3, 3, 4, 5, 6, 7]
#: A warped mask whose peak falls below this share of the peak it had is gone.
VANISHED_SHARE = 0.05

Range = 'tuple[float, float] | Tensor'


@dataclass(frozen=True)
class OperationRanges:
    """What the operations draw from. Each range is (low, high): two floats, or a tensor of shape ``(2,)``.

    Attributes:
        rotate, shear_x, shear_y: degrees.
        scale: factor above 0, drawn for x and y on their own unless ``isotropic``.
        brightness, contrast, saturation: factors, 1 keeps.
        hue: fraction of a full turn.
        probability: of every single operation; or one for each of the eight.
        flip_probability: of the mirror along x and of the one along y.
        elastic: fraction of the control spacing, below 0.25.
        elastic_probability: of the deformation.
        isotropic: whether x and y get the same scale.
    """

    rotate: Range = (-30.0, 30.0)
    shear_x: Range = (-10.0, 10.0)
    shear_y: Range = (-10.0, 10.0)
    scale: Range = (0.6, 1.6)
    brightness: Range = (0.7, 1.3)
    contrast: Range = (0.7, 1.3)
    saturation: Range = (0.7, 1.3)
    hue: Range = (-0.03, 0.03)
    probability: float | Sequence[float] = 0.5
    flip_probability: float = 0.5
    elastic: tuple[float, float] = (0.02, 0.15)
    elastic_probability: float = 0.5
    isotropic: bool = False
    _fixed: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = LIMITS[:, [0, 1, 2, 3, 5, 6, 7, 8]].T.tolist()
        for name, (lowest, highest) in zip(OPERATIONS, limits, strict=True):
            value = getattr(self, name)
            value = value.tolist() if isinstance(value, Tensor) else value
            if len(value) != 2 or not lowest <= value[0] <= value[1] <= highest:
                raise ValueError(
                    f'`{name}` must satisfy {lowest:g} <= low <= high <= {highest:g}, got {value!r}. '
                    'Angles are degrees, hue is a fraction of a turn, the others are factors.'
                )
        for name in ('probability', 'flip_probability', 'elastic_probability'):
            value = getattr(self, name)
            each = list(value) if name == 'probability' and isinstance(value, Sequence) else [value]
            if len(each) not in (1, len(OPERATIONS)) or not all(0 <= one <= 1 for one in each):
                raise ValueError(f'`{name}` must be in [0, 1], got {value}.')
        check_fraction('elastic', self.elastic)
        if not any(isinstance(getattr(self, name), Tensor) for name in OPERATIONS):
            rows = [getattr(self, name) for name in OPERATIONS]
            object.__setattr__(self, '_fixed', torch.tensor(rows, dtype=torch.float64)[_COLUMNS])

    @classmethod
    def published(cls) -> OperationRanges:
        """Return the starting ranges of Synth4Seg, with a smallest scale of 0.1 in place of 0 and shears as angles."""
        return cls(
            shear_x=(-16.7, 16.7),
            shear_y=(-16.7, 16.7),
            scale=(0.1, 2.0),
            brightness=(0.1, 1.9),
            contrast=(0.1, 1.9),
            saturation=(0.1, 1.9),
            hue=(0.0, 0.0),
            flip_probability=0,
            elastic_probability=0,
        )

    @cached_property
    def plain_bounds(self) -> list[tuple[float, float]]:
        """Low and high in the order of ``VALUES`` as floats; without the gradient of tensor ranges."""
        return [tuple(row) for row in self.bounds().detach().tolist()]

    @cached_property
    def chances(self) -> list[float]:
        """Probability of each of the eight operations."""
        each = self.probability
        return list(each) if isinstance(each, Sequence) else [each] * len(OPERATIONS)

    def bounds(self) -> Tensor:
        """Return ``(9, 2)`` float64 low and high in the order of ``VALUES``; carries the gradient of tensor ranges."""
        if self._fixed is not None:
            return self._fixed
        rows = [torch.as_tensor(getattr(self, name)).double().cpu() for name in OPERATIONS]
        return torch.stack(rows)[_COLUMNS]


@dataclass(frozen=True)
class Operations:
    """Drawn operations of B samples.

    Attributes:
        values: ``(B, 9)`` float64 in the order of ``VALUES``.
        flips: ``(B, 2)`` float64, -1 mirrors x or y.
        elastic: ``(B,)`` float64 fraction of the control spacing, 0 for none.
        control: ``(B, 2, k, k)`` float64 in [-1, 1], directions of the control points.
    """

    values: Tensor
    flips: Tensor
    elastic: Tensor
    control: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def select(self, index: int) -> Operations:
        """Return the operations of one sample."""
        return Operations(*(getattr(self, item.name)[index : index + 1] for item in fields(self)))

    def parameters(self, index: int = 0) -> dict[str, float]:
        """Return what was drawn for one sample as floats, for the record of its instance."""
        record = dict(zip(VALUES, self.values[index].tolist(), strict=True))
        record |= dict(flip_x=self.flips[index, 0].item(), flip_y=self.flips[index, 1].item())
        record['elastic'] = self.elastic[index].item()
        if record['elastic']:
            record |= {f'control_{i}': value for i, value in enumerate(self.control[index].flatten().tolist())}
        return record


def sample_operations(generator: Generator | Sequence[Generator], ranges: OperationRanges | None = None) -> Operations:
    """Draw operations for one sample, or for a batch from one generator per sample.

    Every sample takes the same number of draws, whatever is applied.
    """
    ranges = ranges or OperationRanges()
    generators = [generator] if isinstance(generator, Generator) else generator
    count = 2 * CONTROLS * CONTROLS
    draws = torch.stack([torch.rand(21 + count, generator=one, dtype=torch.float64) for one in generators])
    uniform, apply = draws[:, :9].clone(), draws[:, 9:17] < torch.tensor(ranges.chances, dtype=draws.dtype)
    if ranges.isotropic:
        uniform[:, 4] = uniform[:, 3]
    bounds = ranges.bounds()
    values = bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * uniform
    values = torch.where(apply[:, _COLUMNS], values.clamp(LIMITS[0], LIMITS[1]), _IDENTITY)
    flips = torch.where(draws[:, 17:19] < ranges.flip_probability, -1.0, 1.0).double()
    low, high = ranges.elastic
    elastic = (low + (high - low) * draws[:, 19]) * (draws[:, 20] < ranges.elastic_probability)
    control = draws[:, 21:].view(-1, 2, CONTROLS, CONTROLS) * 2 - 1
    return Operations(values, flips, elastic, control)


def apply_operations(patch: Tensor, mask: Tensor, operations: Operations) -> tuple[Tensor, Tensor]:
    """Apply drawn operations to a defect and its mask.

    Args:
        patch: ``(C, h, w)`` or ``(B, C, h, w)`` float in [0, 1], RGB.
        mask: ``(1, h, w)`` or ``(B, 1, h, w)`` float in [0, 1] or bool.
        operations: for as many samples.

    Returns:
        patch: ``(B, C, h', w')`` like the input; grown so that nothing is cut, samples centred; colours go on past
        its border.
        mask: ``(B, 1, h', w')`` float in [0, 1], soft at its outline. When sampling lowered the peak of a small defect,
        the mask is raised to the peak it had, so a defect of one pixel stays one; all zero when less than 5 % was left.
    """
    if patch.ndim == 3:
        patch, mask = apply_operations(patch[None], mask[None], operations)
        return patch[0], mask[0]
    if patch.ndim != 4 or mask.shape != (patch.shape[0], 1, *patch.shape[2:]) or len(operations) != len(patch):
        raise ValueError(
            '`patch` (B, C, h, w), `mask` (B, 1, h, w) and `operations` must be of the same B, h and w, '
            f'got {tuple(patch.shape)}, {tuple(mask.shape)} and operations for {len(operations)}.'
        )
    mask = mask.to(patch.dtype)
    peak = mask.amax((2, 3), keepdim=True)
    colored = adjust_color(patch.flatten(2), operations.values[:, 5:], mask.flatten(1), clip=False).view(patch.shape)
    inverse = inverse_matrix(operations.values[:, :5], operations.flips)
    bends = bool(operations.elastic.any())
    halves = canvas_halves(inverse, tuple(patch.shape[2:]), operations.elastic if bends else None)
    control = operations.control * operations.elastic.view(-1, 1, 1, 1) if bends else None
    patch, mask = warp(colored, mask, inverse, halves, control)
    return patch, _keep_peak(mask, peak)


def _keep_peak(mask: Tensor, peak: Tensor) -> Tensor:
    new_peak = mask.amax((2, 3), keepdim=True)
    share = (new_peak / peak.clamp_min(1e-12)).detach()
    if bool((share > 0.999).all()):
        return mask
    lift = torch.where(share > 0.999, 1.0, peak / new_peak.clamp_min(1e-12))
    return (mask * torch.where(share > VANISHED_SHARE, lift, 0)).clamp_(0, 1)


def harden(mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the bool label of a soft mask: where it reaches the threshold times its own peak."""
    peak = mask.amax((-2, -1), keepdim=True)
    return (mask >= threshold * peak) & (mask > 0)


@dataclass(frozen=True)
class AugmentedDefect:
    """A defect after its operations.

    Attributes:
        patch: ``(C, h, w)`` float in [0, 1]; ``mask``: ``(1, h, w)`` float in [0, 1], soft.
        operations: what was applied, for one sample.
        redraws: draws that made the defect vanish before this one.
    """

    patch: Tensor
    mask: Tensor
    operations: Operations
    redraws: int = 0


def augment_defect(
    patch: Tensor, mask: Tensor, generator: Generator, ranges: OperationRanges | None = None, attempts: int = 4
) -> AugmentedDefect | None:
    """Draw and apply operations to one defect, again when it vanished.

    Args:
        patch: ``(C, h, w)`` float in [0, 1]; ``mask``: ``(1, h, w)`` float or bool.

    Returns:
        The augmented defect, or None when it vanished in every attempt: skip it and count ``vanished``.
    """
    for attempt in range(attempts):
        operations = sample_operations(generator, ranges)
        new_patch, new_mask = apply_operations(patch, mask, operations)
        if new_mask.any():
            return AugmentedDefect(new_patch, new_mask, operations, attempt)
    return None
