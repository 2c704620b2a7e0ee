"""CutPaste: a part of the image, cut out and pasted elsewhere, with the exact label of what changed.

Source: Li et al., CutPaste, CVPR 2021. The defaults are its numbers: a rectangle of 2-15 % of the area with log-uniform
aspect ratio, or a scar 2-16 px wide and 10-25 px long at 256 px, rotated by up to 45 degrees, both with a colour jitter
of 0.1. The scar grows with the network resolution, so give the image at the size the network sees. Not covered: the
classifier and the density estimate of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmdefect.synthesis.color import adjust_color
from mmdefect.synthesis.shapes import (
    VISIBLE_TOLERANCE,
    check_generators,
    check_range,
    find_box,
    fresh_label,
    rotated_size,
    stack_samples,
    visible_change,
    write_label,
)
from mmdefect.synthesis.types import Instance, Synthesis

KINDS = ('normal', 'scar', 'union')


@dataclass(frozen=True)
class CutPasteRanges:
    """What is drawn.

    Attributes:
        area_fraction_range: area of a normal patch as a fraction of the image area.
        aspect_range: width over height of a normal patch, drawn log-uniformly among the values that fit the image.
        jitter: brightness, contrast and saturation factors lie within 1 +- jitter, hue within +- jitter turns.
        scar_width_range, scar_length_range: pixels at ``reference_size``.
        scar_rotation_range: degrees, counter-clockwise.
        reference_size: scars grow by the root of the image area over this size.
    """

    area_fraction_range: tuple[float, float] = (0.02, 0.15)
    aspect_range: tuple[float, float] = (0.3, 1 / 0.3)
    jitter: float = 0.1
    scar_width_range: tuple[float, float] = (2, 16)
    scar_length_range: tuple[float, float] = (10, 25)
    scar_rotation_range: tuple[float, float] = (-45, 45)
    reference_size: float = 256

    def __post_init__(self) -> None:
        check_range(
            'area_fraction_range',
            self.area_fraction_range,
            1e-6,
            1,
            'It is a fraction of the image area, not a number of pixels.',
        )
        check_range('aspect_range', self.aspect_range, 1e-2, 1e2, 'It is width over height.')
        check_range('scar_width_range', self.scar_width_range, 1, 1e4, 'It is in pixels at `reference_size`.')
        check_range('scar_length_range', self.scar_length_range, 1, 1e4, 'It is in pixels at `reference_size`.')
        check_range('scar_rotation_range', self.scar_rotation_range, -180, 180, 'It is in degrees.')
        if not 0 <= self.jitter <= 0.5:
            raise ValueError(f'`jitter` must be in [0, 0.5], got {self.jitter}. 0 keeps the colours, 0.1 is the paper.')


_DEFAULT_RANGES = CutPasteRanges()


@dataclass(frozen=True)
class CutPasteDraw:
    """One drawn patch: the same draw on the same image gives the same pixels."""

    scar: bool
    source_top: int
    source_left: int
    height: int
    width: int
    target_top: int
    target_left: int
    degrees: float
    brightness: float
    contrast: float
    saturation: float
    hue: float

    @cached_property
    def canvas_hw(self) -> tuple[int, int]:
        """Height and width after the rotation: what has to fit into the image."""
        return rotated_size((self.height, self.width), self.degrees)

    def parameters(self) -> dict[str, float]:
        """Return everything drawn as floats, for the record of the instance."""
        return {name: float(getattr(self, name)) for name in self.__dataclass_fields__}


def sample_cutpaste(
    size_hw: tuple[int, int], generator: Generator, kind: str = 'normal', ranges: CutPasteRanges | None = None
) -> CutPasteDraw:
    """Draw one patch for an image; it always lies inside the image, before and after its rotation."""
    if kind not in KINDS:
        raise ValueError(f'`kind` must be one of {", ".join(KINDS)}, got {kind!r}.')
    ranges = ranges or _DEFAULT_RANGES
    draws = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
    scar = kind == 'scar' or (kind == 'union' and draws[0] < 0.5)
    if scar:
        height, width, degrees = _draw_scar(size_hw, draws[1:4], ranges)
    else:
        height, width = _draw_rectangle(size_hw, draws[1:3], ranges)
        degrees = 0.0
    canvas_hw = rotated_size((height, width), degrees)
    jitter = ranges.jitter
    return CutPasteDraw(
        scar,
        _corner(size_hw[0], height, draws[4]),
        _corner(size_hw[1], width, draws[5]),
        height,
        width,
        _corner(size_hw[0], canvas_hw[0], draws[6]),
        _corner(size_hw[1], canvas_hw[1], draws[7]),
        degrees,
        *(1 + jitter * (2 * value - 1) for value in draws[8:11]),
        jitter * (2 * draws[11] - 1),
    )


def _draw_rectangle(size_hw: tuple[int, int], draws: list[float], ranges: CutPasteRanges) -> tuple[int, int]:
    height, width = size_hw
    area = _between(ranges.area_fraction_range, draws[0]) * height * width
    # sides area**0.5 * aspect**+-0.5 must fit: on long images part of the aspect ratios cannot occur
    fit_low, fit_high = area / height**2, width**2 / area
    low = min(max(ranges.aspect_range[0], fit_low), fit_high)
    high = max(min(ranges.aspect_range[1], fit_high), fit_low)
    aspect = math.exp(_between((math.log(low), math.log(high)), draws[1]))
    return (min(height, max(1, round(math.sqrt(area / aspect)))), min(width, max(1, round(math.sqrt(area * aspect)))))


def _draw_scar(size_hw: tuple[int, int], draws: list[float], ranges: CutPasteRanges) -> tuple[int, int, float]:
    grow = math.sqrt(size_hw[0] * size_hw[1]) / ranges.reference_size
    width = max(1, round(_between(ranges.scar_width_range, draws[0]) * grow))
    length = max(1, round(_between(ranges.scar_length_range, draws[1]) * grow))
    degrees = _between(ranges.scar_rotation_range, draws[2])
    for _ in range(8):  # only images narrower than a scar get here twice
        canvas = rotated_size((length, width), degrees)
        shrink = min(1.0, size_hw[0] / max(canvas[0], length), size_hw[1] / max(canvas[1], width))
        if shrink == 1:
            return length, width, degrees
        length, width = max(1, int(length * shrink)), max(1, int(width * shrink))
    return 1, 1, 0.0


def _between(value_range: tuple[float, float], draw: float) -> float:
    return value_range[0] + (value_range[1] - value_range[0]) * draw


def _corner(size: int, part: int, draw: float) -> int:
    return min(int(draw * (size - part + 1)), size - part)


def check_inside(draw: CutPasteDraw, size_hw: tuple[int, int]) -> None:
    """Raise when the source or the target of a draw leaves an image: the draw belongs to another size."""
    for top, left, part_hw in (
        (draw.source_top, draw.source_left, (draw.height, draw.width)),
        (draw.target_top, draw.target_left, draw.canvas_hw),
    ):
        if not (0 <= top <= size_hw[0] - part_hw[0] and 0 <= left <= size_hw[1] - part_hw[1]):
            raise ValueError(
                f'The patch of {part_hw[0]}x{part_hw[1]} at row {top}, column {left} must lie inside the '
                f'image of {size_hw[0]}x{size_hw[1]}. Draw with the size of this image.'
            )


def apply_cutpaste(image: Tensor, draw: CutPasteDraw) -> tuple[Tensor, Tensor]:
    """Return what the draw makes of the target part of the image.

    Args:
        image: ``(C, H, W)`` float in [0, 1], RGB.

    Returns:
        part: ``(C, h, w)`` new pixels of the target rectangle, whose size is ``draw.canvas_hw``.
        alpha: ``(h, w)`` float in [0, 1], how much of every pixel was pasted.

    Raises:
        ValueError: if the source or the target leaves the image: the draw belongs to another size.
    """
    check_inside(draw, tuple(image.shape[1:]))
    height, width = draw.canvas_hw
    source = image[:, draw.source_top : draw.source_top + draw.height, draw.source_left : draw.source_left + draw.width]
    values = draw.brightness, draw.contrast, draw.saturation, draw.hue
    patch = adjust_color(source.reshape(1, len(image), -1), values).view(source.shape)
    if not draw.scar:
        return patch, image.new_ones(()).expand(height, width)
    opaque = torch.cat((patch, torch.ones_like(patch[:1])))[None]
    turned = F.grid_sample(opaque, _scar_grid(image, draw), align_corners=False)
    alpha = turned[0, -1]  # the colours fade to 0 with it: they are already weighted
    target = image[:, draw.target_top : draw.target_top + height, draw.target_left : draw.target_left + width]
    return torch.addcmul(turned[0, :-1], target, 1 - alpha), alpha


def _scar_grid(image: Tensor, draw: CutPasteDraw) -> Tensor:
    height, width = draw.canvas_hw
    cosine, sine = math.cos(math.radians(draw.degrees)), math.sin(math.radians(draw.degrees))
    matrix = torch.tensor(
        [
            [
                [cosine * width / draw.width, -sine * height / draw.width, 0],
                [sine * width / draw.height, cosine * height / draw.height, 0],
            ]
        ],
        dtype=image.dtype,
    )
    return torch.affine_grid_generator(matrix.to(image.device), (1, 1, height, width), False)


def cut_paste(
    image: Tensor,
    generator: Generator | Sequence[Generator],
    label: Tensor | None = None,
    *,
    kind: str = 'normal',
    class_id: int = 1,
    ranges: CutPasteRanges | None = None,
    tolerance: float | None = VISIBLE_TOLERANCE,
    overwrite_ignore: bool = False,
    attempts: int = 4,
) -> Synthesis:
    """Paste one CutPaste defect into every image.

    Args:
        image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB, at network size.
        generator: CPU generator, for a batch one per sample.
        label: ``(H, W)`` or ``(B, H, W)`` int64 to write into; None for all normal. Pasted pixels win over classes.
        kind: ``normal``, ``scar`` or ``union`` (half of each).
        class_id: class of the pasted pixels.
        tolerance: a pasted pixel is labelled when a colour moved by more than this; None labels every pasted pixel,
            also on a surface so even that nothing can be seen.
        overwrite_ignore: whether pasted pixels also replace label 255.
        attempts: draws until one is visible; after the last the image stays as it is and the skip is counted.

    Returns:
        Synthesis: new tensors; ``skipped`` counts defects that were ``invisible``, or ``ignored`` because they fell on
        ignored pixels only.
    """
    if image.ndim == 4:
        generators = check_generators(image, generator)
        samples = [
            cut_paste(
                image[i],
                generators[i],
                None if label is None else label[i],
                kind=kind,
                class_id=class_id,
                ranges=ranges,
                tolerance=tolerance,
                overwrite_ignore=overwrite_ignore,
                attempts=attempts,
            )
            for i in range(len(image))
        ]
        return stack_samples(samples)
    new_label, reason = fresh_label(image, label), 'invisible'
    for _ in range(attempts):
        draw = sample_cutpaste(tuple(image.shape[1:]), generator, kind, ranges)
        part, alpha = apply_cutpaste(image, draw)
        top, left = draw.target_top, draw.target_left
        window = (slice(top, top + part.shape[1]), slice(left, left + part.shape[2]))
        # where alpha is 0 nothing changed at all
        pasted = alpha > 0 if tolerance is None else visible_change(part, image[:, window[0], window[1]], tolerance)
        written = write_label(new_label[window], pasted, class_id, overwrite_ignore or label is None)
        found = find_box(written)
        if found is None:
            reason = 'ignored' if pasted.any() else 'invisible'
            continue
        box, area = found
        new_image = image.clone()
        new_image[:, window[0], window[1]] = part
        instance = Instance(
            class_id,
            (top + box[0], left + box[1], top + box[2], left + box[3]),
            area,
            f'background:{draw.source_top},{draw.source_left},{draw.height},{draw.width}',
            'cutpaste-scar' if draw.scar else 'cutpaste-normal',
            'alpha',
            draw.parameters(),
        )
        return Synthesis(new_image, new_label, [instance])
    return Synthesis(image.clone(), new_label, [], skipped={reason: 1})


def cut_paste_3way(
    image: Tensor,
    generator: Generator | Sequence[Generator],
    label: Tensor | None = None,
    *,
    class_ids: tuple[int, int] = (1, 2),
    **options,
) -> tuple[Synthesis, Synthesis, Synthesis]:
    """Return three views: the image as it is (the same tensor), with a normal patch and with a scar.

    Args:
        image, generator, label: as for :func:`cut_paste`.
        class_ids: classes of the normal patch and of the scar.
        options: further arguments of :func:`cut_paste`.
    """
    same_label = label
    if label is None:
        same_label = torch.zeros(image.shape[:-3] + image.shape[-2:], dtype=torch.int64, device=image.device)
    untouched = Synthesis(image, same_label, [[] for _ in image] if image.ndim == 4 else [])
    return (
        untouched,
        cut_paste(image, generator, label, kind='normal', class_id=class_ids[0], **options),
        cut_paste(image, generator, label, kind='scar', class_id=class_ids[1], **options),
    )
