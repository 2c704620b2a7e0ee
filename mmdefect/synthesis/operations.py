"""The eight operations on a defect: rotation, shear x and y, scale; brightness, contrast, saturation, hue.

What they may be, what was sampled, and their formulas, which both renderers use: for one defect with plain numbers (a
hundred small tensors cost more than a small paste), for a batch with tensors that carry the gradient of learned ranges.

* The geometric ones, with flips and elastic deformation, are one warp. Shears are angles in degrees, as rotations are.
* The photometric ones are one matrix. Brightness multiplies; saturation stretches the distance from the pixel's own
  grey; hue turns the chroma plane of YIQ (a fraction of a full turn, luma kept: cheaper than HSV and differentiable
  everywhere); contrast stretches the distance from the mean grey of the masked pixels. All four commute, so there is no
  order to sample, and only the result is clipped.
* The elastic deformation is a small grid of cubic B-spline controls. With controls that move by at most ``fraction`` of
  their spacing, the slope of the displacement stays below ``4 * fraction``. Below a quarter no two points change
  places, so a defect keeps its topology.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

OPERATIONS = ('rotate', 'shear_x', 'shear_y', 'scale', 'brightness', 'contrast', 'saturation', 'hue')
#: The numbers of a defect, the operation that switches each of them, what changes nothing, and limits that hold while
#: ranges are learned, too: no defect is scaled away or sheared flat.
VALUES = ('rotate', 'shear_x', 'shear_y', 'scale_x', 'scale_y', 'brightness', 'contrast', 'saturation', 'hue')
OPERATION_OF = (0, 1, 2, 3, 3, 4, 5, 6, 7)
NEUTRAL = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
LOWEST = (-180.0, -60.0, -60.0, 0.1, 0.1, 0.0, 0.0, 0.0, -0.5)
HIGHEST = (180.0, 60.0, 60.0, 10.0, 10.0, 3.0, 3.0, 3.0, 0.5)
#: Controls per axis of the elastic deformation; cubic splines with six have three intervals over the defect.
CONTROLS = 6
MAX_FRACTION = 0.25
_CONTROL_NAMES = tuple(f'control_{i}' for i in range(2 * CONTROLS * CONTROLS))
#: Numbers in [0, 1) that one defect takes, whatever is applied.
NUM_UNIFORMS = 21 + len(_CONTROL_NAMES)
#: A warped mask whose peak falls below this share of the peak it had is gone.
VANISHED_SHARE = 0.05
LUMA = (0.299, 0.587, 0.114)
# in-phase and quadrature axes of YIQ (FCC weights)
_CHROMA = ((0.599, -0.2773, -0.3217), (0.213, -0.5251, 0.3121))

Range = 'tuple[float, float] | Tensor'


@dataclass(frozen=True)
class OperationRanges:
    """What the operations are sampled from. Each range is (low, high): two floats, or a tensor of shape ``(2,)``.

    Attributes:
        rotate, shear_x, shear_y: degrees.
        scale: factor above 0, sampled for x and y on their own unless ``isotropic``.
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

    def __post_init__(self) -> None:
        for name, column in zip(OPERATIONS, (0, 1, 2, 3, 5, 6, 7, 8), strict=True):
            value = getattr(self, name)
            value = value.tolist() if isinstance(value, Tensor) else value
            if len(value) != 2 or not LOWEST[column] <= value[0] <= value[1] <= HIGHEST[column]:
                raise ValueError(
                    f'`{name}` must satisfy {LOWEST[column]:g} <= low <= high <= {HIGHEST[column]:g}, got {value!r}. '
                    'Angles are degrees, hue is a fraction of a turn, the others are factors.'
                )
        for name in ('probability', 'flip_probability', 'elastic_probability'):
            value = getattr(self, name)
            each = list(value) if name == 'probability' and isinstance(value, Sequence) else [value]
            if len(each) not in (1, len(OPERATIONS)) or not all(0 <= one <= 1 for one in each):
                raise ValueError(f'`{name}` must be in [0, 1], got {value}.')
        if len(self.elastic) != 2 or not 0 <= self.elastic[0] <= self.elastic[1] < MAX_FRACTION:
            raise ValueError(
                f'`elastic` must satisfy 0 <= low <= high < {MAX_FRACTION}, got {self.elastic!r}. It is a '
                'fraction of the spacing of the control points; at a quarter the deformation could fold.'
            )

    def bounds(self) -> Tensor:
        """Return ``(8, 2)`` float64 low and high of the operations; carries the gradient of tensor ranges."""
        return torch.stack([torch.as_tensor(getattr(self, name)).double().cpu() for name in OPERATIONS])

    @cached_property
    def plain_bounds(self) -> list[tuple[float, float]]:
        """Low and high in the order of ``VALUES``, as floats."""
        rows = [getattr(self, name) for name in OPERATIONS]
        rows = [row.tolist() if isinstance(row, Tensor) else row for row in rows]
        return [tuple(rows[operation]) for operation in OPERATION_OF]

    @cached_property
    def chances(self) -> list[float]:
        """Probability of each of the eight operations."""
        each = self.probability
        return list(each) if isinstance(each, Sequence) else [each] * len(OPERATIONS)

    @property
    def is_learned(self) -> bool:
        """Whether a range carries a gradient."""
        return any(isinstance(value, Tensor) and value.requires_grad for value in vars(self).values())

    def follow(self, values: Tensor) -> Tensor:
        """Return sampled values, ``(9,)`` float64, as functions of the ranges: ``low + (high - low) u``, u fixed."""
        bounds = self.bounds()[list(OPERATION_OF)]
        low, high = bounds.detach().unbind(1)
        share = (values - low) / (high - low).clamp_min(1e-9)
        applied = (values != values.new_tensor(NEUTRAL)) & (high > low)
        return torch.where(applied, bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * share, values)


@dataclass(frozen=True)
class Operations:
    """What is applied to one defect.

    Attributes:
        values: in the order of ``VALUES``.
        flips: -1 mirrors x or y.
        elastic: fraction of the control spacing, 0 for none.
        control: ``(2, k, k)`` float64 in [-1, 1], directions of the control points; ``None`` without deformation.
        inverse: of :func:`inverse_matrix`; follows from the values, as ``shares`` of :func:`color_shares` do.
    """

    values: tuple[float, ...]
    flips: tuple[float, float]
    elastic: float
    control: ndarray | None
    inverse: tuple[float, ...] = field(init=False, repr=False, compare=False)
    shares: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'inverse', inverse_matrix(self.values, self.flips))
        object.__setattr__(self, 'shares', color_shares(self.values[5:]))

    def grown_pixels(self, grow: int, scale_yx: tuple[float, float]) -> int:
        """Return by how many pixels of the image the pasted region exceeds the defect; at least one unless 0.

        It grows with the defect: a rim that lies one pixel outside of the mask in the file lies two outside when the
        donor is enlarged twice, and gradients that start on the rim give the inside the opposite colour.

        Args:
            grow: pixels of the file.
            scale_yx: pixels of the image per pixel of the file.
        """
        if grow < 1:
            return 0
        mean_scale = math.sqrt(self.values[3] * self.values[4])
        return max(1, round(grow * math.sqrt(abs(scale_yx[0] * scale_yx[1])) * mean_scale))

    def parameters(self) -> dict[str, float]:
        """Return everything as floats, for the record of an instance."""
        record = dict(zip(VALUES, self.values, strict=True))
        record.update(flip_x=self.flips[0], flip_y=self.flips[1], elastic=self.elastic)
        if self.control is not None:
            record.update(zip(_CONTROL_NAMES, self.control.ravel().tolist(), strict=True))
        return record

    @classmethod
    def from_parameters(cls, numbers: Mapping[str, float]) -> Operations:
        """Return the operations that :meth:`parameters` wrote down."""
        elastic, control = numbers['elastic'], None
        if elastic:
            control = np.array([numbers[name] for name in _CONTROL_NAMES]).reshape(2, CONTROLS, CONTROLS)
        flips = numbers['flip_x'], numbers['flip_y']
        return cls(tuple(numbers[name] for name in VALUES), flips, elastic, control)


def with_colours_of(shape: ndarray, colours: ndarray) -> ndarray:
    """Return the uniform numbers of a shape with those of the photometric operations of others."""
    mixed = shape.copy()
    mixed[5:9], mixed[13:17] = colours[5:9], colours[13:17]
    return mixed


def sample_operations(uniforms: ndarray, ranges: OperationRanges) -> Operations:
    """Turn ``NUM_UNIFORMS`` numbers in [0, 1) into operations."""
    head = uniforms[:21].tolist()
    if ranges.isotropic:
        head[4] = head[3]
    values = []
    for column, (low, high) in enumerate(ranges.plain_bounds):
        value = NEUTRAL[column]
        if head[9 + OPERATION_OF[column]] < ranges.chances[OPERATION_OF[column]]:
            value = min(max(low + (high - low) * head[column], LOWEST[column]), HIGHEST[column])
        values.append(value)
    flips = tuple(-1.0 if number < ranges.flip_probability else 1.0 for number in head[17:19])
    low, high = ranges.elastic
    elastic = low + (high - low) * head[19] if head[20] < ranges.elastic_probability else 0.0
    control = (uniforms[21:] * 2 - 1).reshape(2, CONTROLS, CONTROLS) if elastic else None
    return Operations(tuple(values), flips, elastic, control)


def inverse_matrix(values: Sequence, flips: Sequence, library: Any = math) -> tuple:
    """Return the map from output to input offsets (x, y) from the middle, row by row: a, b, c, d.

    The forward order is flip, scale, shear y, shear x, rotation. Rotation is counter-clockwise as seen in the image; a
    positive shear x moves lower rows to the right, a positive shear y moves columns on the right down.

    Args:
        values: the first five of ``VALUES``: numbers, or ``(B,)`` tensors.
        flips: two likewise.
        library: ``math`` or ``torch``.
    """
    turn, shear_x, shear_y = (value * (math.pi / 180) for value in values[:3])
    cosine, sine, shear_x, shear_y = library.cos(turn), library.sin(turn), library.tan(shear_x), library.tan(shear_y)
    inner, x, y = 1 + shear_x * shear_y, flips[0] / values[3], flips[1] / values[4]
    return (
        (cosine - shear_x * sine) * x,
        (-sine - shear_x * cosine) * x,
        (inner * sine - shear_y * cosine) * y,
        (inner * cosine + shear_y * sine) * y,
    )


def color_shares(values: Sequence, library: Any = math) -> tuple:
    """Return the shares of grey, chroma and turned chroma in every pixel, and that of the mean grey."""
    brightness, contrast, saturation, hue = values
    gain = brightness * contrast
    chroma, angle = gain * saturation, hue * (2 * math.pi)
    return gain, chroma * library.cos(angle), chroma * library.sin(angle), brightness - gain


@lru_cache(maxsize=8)
def color_basis(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(3, 9)``: onto grey, onto chroma, and chroma turned by a quarter."""
    to_yiq = torch.tensor([LUMA, *_CHROMA], dtype=torch.float64)
    to_yiq[1:] -= to_yiq[1:].mean(1, keepdim=True)  # the rounded weights must not give grey a colour
    to_rgb = torch.linalg.inv(to_yiq)
    quarter = torch.tensor([[0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    grey = torch.tensor([1, 0, 0], dtype=torch.float64).diag()
    parts = [to_rgb @ part @ to_yiq for part in (grey, torch.eye(3, dtype=torch.float64) - grey, quarter)]
    return torch.stack(parts).view(3, 9).to(device, dtype)


def adjust_color(
    image: Tensor, values: Tensor | Sequence[float], mask: Tensor | None = None, clip: bool = True
) -> Tensor:
    """Change brightness, contrast, saturation and hue in one pass.

    Args:
        image: ``(B, C, N)`` float in [0, 1], RGB when C is 3. With any other C saturation and hue do nothing.
        values: ``(B, 4)`` float: brightness, contrast and saturation factors (1 keeps), hue as a fraction of a turn;
            or these four numbers for a batch of one.
        mask: ``(B, N)`` float weights of the pixels whose mean grey contrast keeps; None for all of them.
        clip: to [0, 1]; without it, clip after what follows.

    Returns:
        ``(B, C, N)``; differentiable in image, values and mask.
    """
    if isinstance(values, Tensor):
        shares = torch.stack(color_shares(values.unbind(1), torch), 1).to(image)
    else:  # plain numbers: a tenth of the time
        shares = image.new_tensor([color_shares(values)])
    if mask is None:
        mean = image.mean(2, keepdim=True)
    else:
        mean = image @ mask[:, :, None] / mask.sum(1).clamp_min(1e-6).view(-1, 1, 1)
    if image.shape[1] != 3:
        result = image * shares[:, :1, None] + shares[:, 3:, None] * mean.mean(1, keepdim=True)
    else:
        basis = color_basis(image.dtype, image.device)
        matrix, grey = (shares[:, :3] @ basis).view(-1, 3, 3), shares[:, 3:, None] * basis[0].view(3, 3)
        result = torch.baddbmm(grey @ mean, matrix, image)
    return result.clamp_(0, 1) if clip else result
