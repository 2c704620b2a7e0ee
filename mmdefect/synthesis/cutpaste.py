"""CutPaste: a part of the image, cut out and pasted elsewhere, with the exact label of what changed.

Source: Li et al., CutPaste, CVPR 2021. The defaults are its numbers: a rectangle of 2-15 % of the area with log-uniform
aspect ratio, or a scar 2-16 px wide and 10-25 px long at 256 px, rotated by up to 45 degrees, both with a colour jitter
of 0.1. Scars grow with the image, so give it at the size the network sees. Not covered: the classifier and the density
estimate of the paper.

:func:`sample_cutpaste` samples the parameters of a paste; they are rendered on float tensors, on any device and with
gradients, or on 8-bit arrays with OpenCV, which takes less time and agrees to a grey level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Generator, Tensor

from mmdefect.synthesis.operations import adjust_color, color_shares
from mmdefect.synthesis.places import rotated_size
from mmdefect.synthesis.records import (
    VISIBLE_TOLERANCE,
    Instance,
    Synthesis,
    check_generators,
    check_range,
    fresh_label,
    instance_at,
    stack_samples,
    visible_change,
    write_label,
)
from mmdefect.synthesis.render.arrays import color_matrix

KINDS = ('normal', 'scar', 'union')
#: Columns of an affine map of RGB in the order of BGR.
_BGR = np.array([2, 1, 0, 3])
#: Seen as an array of any size, it saves filling one: a tenth of the time of a paste.
_ONE = np.float32(1).tobytes()
#: Kinds of paste in the views that follow the untouched one.
VARIANTS = {'normal': ('normal',), 'scar': ('scar',), 'union': ('union',), '3way': ('normal', 'scar')}


@dataclass(frozen=True)
class CutPasteRanges:
    """What may be sampled."""

    area_fraction_range: tuple[float, float] = (0.02, 0.15)  # of a normal patch, as a fraction of the image area
    aspect_range: tuple[float, float] = (0.3, 1 / 0.3)  # width over height, log-uniform among the values that fit
    jitter: float = 0.1  # brightness, contrast and saturation lie within 1 +- jitter, hue within +- jitter turns
    scar_width_range: tuple[float, float] = (2, 16)  # pixels at reference_size, as the length
    scar_length_range: tuple[float, float] = (10, 25)
    scar_rotation_range: tuple[float, float] = (-45, 45)  # degrees, counter-clockwise
    reference_size: float = 256  # scars grow by the root of the image area over this size

    def __post_init__(self) -> None:
        for name, low, high, hint in (
            ('area_fraction_range', 1e-6, 1, 'It is a fraction of the image area, not a number of pixels.'),
            ('aspect_range', 1e-2, 1e2, 'It is width over height.'),
            ('scar_width_range', 1, 1e4, 'It is in pixels at `reference_size`.'),
            ('scar_length_range', 1, 1e4, 'It is in pixels at `reference_size`.'),
            ('scar_rotation_range', -180, 180, 'It is in degrees.'),
        ):
            check_range(name, getattr(self, name), low, high, hint)
        if not 0 <= self.jitter <= 0.5:
            raise ValueError(f'`jitter` must be in [0, 0.5], got {self.jitter}. 0 keeps the colours, 0.1 is the paper.')


PUBLISHED_RANGES = CutPasteRanges()


@dataclass(frozen=True)
class CutPasteParameters:
    """One sampled paste: the same parameters on the same image give the same pixels."""

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

    @cached_property
    def source(self) -> tuple[slice, slice]:
        """Rows and columns that are cut out."""
        return _window(self.source_top, self.source_left, (self.height, self.width))

    @cached_property
    def target(self) -> tuple[slice, slice]:
        """Rows and columns that are pasted over."""
        return _window(self.target_top, self.target_left, self.canvas_hw)

    @property
    def colours(self) -> tuple[float, float, float, float]:
        """Brightness, contrast, saturation and hue."""
        return self.brightness, self.contrast, self.saturation, self.hue

    def check_inside(self, size_hw: tuple[int, int]) -> None:
        """Raise when the source or the target leaves an image: the parameters belong to another size."""
        for rows, columns in (self.source, self.target):
            if not (0 <= rows.start <= rows.stop <= size_hw[0] and 0 <= columns.start <= columns.stop <= size_hw[1]):
                raise ValueError(
                    f'rows {rows.start}-{rows.stop} and columns {columns.start}-{columns.stop} of the paste must lie '
                    f'inside the image of {size_hw[0]}x{size_hw[1]}; sample it for the size of this image.'
                )

    def record(self, visible: ndarray, class_id: int) -> Instance:
        """Return the record of the paste; ``visible`` is ``(h, w)`` bool, the labelled pixels of the target."""
        source = f'background:{self.source_top},{self.source_left},{self.height},{self.width}'
        generator = 'cutpaste-scar' if self.scar else 'cutpaste-normal'
        parameters = dict(zip(self.__dataclass_fields__, map(float, _FIELDS(self)), strict=True))
        corner = self.target_top, self.target_left
        return instance_at(visible, corner, class_id, source, generator, 'alpha', parameters)


_FIELDS = attrgetter(*CutPasteParameters.__dataclass_fields__)


def _window(top: int, left: int, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    return slice(top, top + size_hw[0]), slice(left, left + size_hw[1])


def sample_cutpaste(
    size_hw: tuple[int, int], generator: Generator, kind: str = 'normal', ranges: CutPasteRanges | None = None
) -> CutPasteParameters:
    """Sample one paste for an image; it always lies inside the image, before and after its rotation."""
    if kind not in KINDS:
        raise ValueError(f'`kind` must be one of {", ".join(KINDS)}, got {kind!r}.')
    ranges = ranges or PUBLISHED_RANGES
    uniform = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
    scar = kind == 'scar' or (kind == 'union' and uniform[0] < 0.5)
    height, width, degrees = (_sample_scar if scar else _sample_rectangle)(size_hw, uniform[1:4], ranges)
    canvas_hw, jitter = rotated_size((height, width), degrees), ranges.jitter
    return CutPasteParameters(
        scar,
        _corner(size_hw[0], height, uniform[4]),
        _corner(size_hw[1], width, uniform[5]),
        height,
        width,
        _corner(size_hw[0], canvas_hw[0], uniform[6]),
        _corner(size_hw[1], canvas_hw[1], uniform[7]),
        degrees,
        *(1 + jitter * (2 * value - 1) for value in uniform[8:11]),
        jitter * (2 * uniform[11] - 1),
    )


def _sample_rectangle(size_hw: tuple[int, int], uniform: list[float], ranges: CutPasteRanges) -> tuple:
    height, width = size_hw
    area = _between(ranges.area_fraction_range, uniform[0]) * height * width
    # sides area**0.5 * aspect**+-0.5 must fit: on long images part of the aspect ratios cannot occur
    fit_low, fit_high = area / height**2, width**2 / area
    low = min(max(ranges.aspect_range[0], fit_low), fit_high)
    high = max(min(ranges.aspect_range[1], fit_high), fit_low)
    aspect = math.exp(_between((math.log(low), math.log(high)), uniform[1]))
    sides = max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
    return min(height, sides[0]), min(width, sides[1]), 0.0


def _sample_scar(size_hw: tuple[int, int], uniform: list[float], ranges: CutPasteRanges) -> tuple:
    grow = math.sqrt(size_hw[0] * size_hw[1]) / ranges.reference_size
    width = max(1, round(_between(ranges.scar_width_range, uniform[0]) * grow))
    length = max(1, round(_between(ranges.scar_length_range, uniform[1]) * grow))
    degrees = _between(ranges.scar_rotation_range, uniform[2])
    for _ in range(8):  # only images narrower than a scar get here twice
        canvas = rotated_size((length, width), degrees)
        shrink = min(1.0, size_hw[0] / max(canvas[0], length), size_hw[1] / max(canvas[1], width))
        if shrink == 1:
            return length, width, degrees
        length, width = max(1, int(length * shrink)), max(1, int(width * shrink))
    return 1, 1, 0.0


def _between(value_range: tuple[float, float], uniform: float) -> float:
    return value_range[0] + (value_range[1] - value_range[0]) * uniform


def _corner(size: int, part: int, uniform: float) -> int:
    """Return where a part starts in the whole."""
    return min(int(uniform * (size - part + 1)), size - part)


def render_tensor(image: Tensor, paste: CutPasteParameters) -> tuple[Tensor, Tensor]:
    """Return what a paste makes of the target part of a ``(C, H, W)`` float image in [0, 1], RGB.

    Returns:
        part: ``(C, h, w)`` new pixels of the target rectangle, whose size is ``paste.canvas_hw``.
        alpha: ``(h, w)`` float in [0, 1], how much of every pixel was pasted.

    Raises:
        ValueError: if the source or the target leaves the image.
    """
    paste.check_inside(tuple(image.shape[1:]))
    height, width = paste.canvas_hw
    rows, columns = paste.source
    source = image[:, rows, columns]
    patch = adjust_color(source.reshape(1, len(image), -1), paste.colours).view(source.shape)
    if not paste.scar:
        return patch, image.new_ones(()).expand(height, width)
    cosine, sine = math.cos(math.radians(paste.degrees)), math.sin(math.radians(paste.degrees))
    across = [cosine * width / paste.width, -sine * height / paste.width, 0]
    down = [sine * width / paste.height, cosine * height / paste.height, 0]
    matrix = torch.tensor([[across, down]], dtype=image.dtype).to(image.device)
    grid = torch.affine_grid_generator(matrix, (1, 1, height, width), False)
    turned = F.grid_sample(torch.cat((patch, torch.ones_like(patch[:1])))[None], grid, align_corners=False)
    alpha = turned[0, -1]  # the colours fade to 0 with it: they are already weighted
    rows, columns = paste.target
    return torch.addcmul(turned[0, :-1], image[:, rows, columns], 1 - alpha), alpha


def render_array(image: ndarray, paste: CutPasteParameters, is_bgr: bool = True) -> tuple[ndarray, ndarray]:
    """Return what a paste makes of the target part of an ``(H, W, 3)`` or ``(H, W, 1)`` uint8 image.

    Returns:
        part: ``(h, w, C)`` uint8 new pixels of the target rectangle, whose size is ``paste.canvas_hw``.
        alpha: ``(h, w)`` float32 in [0, 1], how much of every pixel was pasted.

    Raises:
        ValueError: if the source or the target leaves the image.
    """
    paste.check_inside(image.shape[:2])
    source = image[paste.source]
    mean = cv2.mean(source)
    if source.shape[2] != 3:
        gain = paste.brightness * paste.contrast
        matrix = np.array([[gain, (paste.brightness - gain) * mean[0]]])
    elif is_bgr:
        matrix = color_matrix(color_shares(paste.colours), mean[2::-1])[::-1, _BGR]
    else:
        matrix = color_matrix(color_shares(paste.colours), mean[:3])
    if not paste.scar:
        part = cv2.transform(source, matrix)
        return part.reshape(source.shape), np.ndarray(part.shape[:2], np.float32, _ONE, strides=(0, 0))
    # Four channels also for a grey image: OpenCV samples two of them at 1/32 of a pixel.
    patch = np.empty((paste.height, paste.width, 4), np.float32)
    colours = cv2.transform(source.astype(np.float32), matrix)
    patch[..., :-1] = np.minimum(np.maximum(colours, 0), 255).reshape(source.shape)
    patch[..., -1] = 1
    turned = cv2.remap(patch, *_turned_places(paste), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    alpha, target = turned[..., -1], image[paste.target]
    part = np.rint(turned[..., : target.shape[2]] + target * (1 - alpha)[..., None])
    return np.minimum(part, 255).astype(np.uint8), alpha


def _turned_places(paste: CutPasteParameters) -> tuple[ndarray, ndarray]:
    """Return columns and rows in the patch of each pixel of the rotated canvas."""
    height, width = paste.canvas_hw
    cosine, sine = math.cos(math.radians(paste.degrees)), math.sin(math.radians(paste.degrees))
    rows = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    columns = np.arange(width, dtype=np.float32) - (width - 1) / 2
    across = cosine * columns - sine * rows + (paste.width - 1) / 2
    down = sine * columns + cosine * rows + (paste.height - 1) / 2
    return across.astype(np.float32, copy=False), down.astype(np.float32, copy=False)


def cut_paste(
    image: Tensor | ndarray,
    generator: Generator | Sequence[Generator],
    label: Tensor | ndarray | None = None,
    *,
    kind: str = 'normal',
    class_id: int = 1,
    ranges: CutPasteRanges | None = None,
    tolerance: float | None = VISIBLE_TOLERANCE,
    overwrite_ignore: bool = False,
    is_bgr: bool = True,
    attempts: int = 4,
) -> Synthesis:
    """Paste one CutPaste defect into every image.

    Args:
        image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB, or an array ``(H, W, 3)`` or ``(H, W, 1)`` uint8;
            at network size.
        generator: CPU generator, for a batch one per sample.
        label: ``(H, W)`` or ``(B, H, W)`` int64, for an array ``(H, W)`` uint8; None for all normal. Pasted pixels win
            over classes.
        kind: ``normal``, ``scar`` or ``union`` (half of each).
        class_id: class of the pasted pixels.
        tolerance: a pasted pixel is labelled when a colour moved by more than this; None labels every pasted pixel,
            also on a surface so even that nothing can be seen.
        overwrite_ignore: whether pasted pixels also replace label 255.
        is_bgr: whether blue comes first in an array.
        attempts: pastes that are tried until one is visible; after the last the image stays as it is and the skip is
            counted.

    Returns:
        Synthesis: new tensors or arrays; ``skipped`` counts defects that were ``invisible``, or ``ignored`` because
        they fell on ignored pixels only.
    """
    if image.ndim == 4:
        options = dict(kind=kind, class_id=class_id, ranges=ranges, tolerance=tolerance)
        options |= dict(overwrite_ignore=overwrite_ignore, is_bgr=is_bgr, attempts=attempts)
        labels = [None] * len(image) if label is None else label
        samples = zip(image, check_generators(image, generator), labels, strict=True)
        return stack_samples([cut_paste(*sample, **options) for sample in samples])
    is_tensor = isinstance(image, Tensor)
    new_label, reason = _label_of(image, label), 'invisible'
    for _ in range(attempts):
        paste = sample_cutpaste(tuple(new_label.shape), generator, kind, ranges)
        part, alpha = render_tensor(image, paste) if is_tensor else render_array(image, paste, is_bgr)
        target = (slice(None), *paste.target) if is_tensor else paste.target
        changed = alpha > 0 if tolerance is None else visible_change(part, image[target], tolerance)
        visible = write_label(new_label[paste.target], changed, class_id, overwrite_ignore or label is None)
        shown = visible.numpy(force=True) if is_tensor else visible
        if not shown.any():
            reason = 'ignored' if changed.any() else 'invisible'
            continue
        new_image = image.clone() if is_tensor else image.copy()
        new_image[target] = part
        return Synthesis(new_image, new_label, [paste.record(shown, class_id)])
    return Synthesis(image.clone() if is_tensor else image.copy(), new_label, [], skipped={reason: 1})


def _label_of(image: Tensor | ndarray, label: Tensor | ndarray | None) -> Tensor | ndarray:
    """Return a copy of the label map, or an all-normal one."""
    if isinstance(image, Tensor):
        return fresh_label(image, label)
    return np.zeros(image.shape[:2], np.uint8) if label is None else label.copy()


def cut_paste_3way(
    image: Tensor | ndarray,
    generator: Generator | Sequence[Generator],
    label: Tensor | ndarray | None = None,
    *,
    class_ids: tuple[int, int] = (1, 2),
    **options,
) -> tuple[Synthesis, Synthesis, Synthesis]:
    """Return three views: the image as it is (the same tensor or array), with a normal patch and with a scar.

    Args:
        image, generator, label, options: as for :func:`cut_paste`.
        class_ids: classes of the normal patch and of the scar.
    """
    normal = cut_paste(image, generator, label, kind='normal', class_id=class_ids[0], **options)
    scar = cut_paste(image, generator, label, kind='scar', class_id=class_ids[1], **options)
    same_label = 0 * normal.label if label is None else label
    return Synthesis(image, same_label, [[] for _ in image] if image.ndim == 4 else []), normal, scar


@dataclass(frozen=True)
class Views:
    """The views of one image that a CutPaste network tells apart."""

    images: Tensor  # (V, 3, h, w) float in [0, 1], RGB; the first is untouched
    # (V,) int64: 0 untouched, 1 pasted (3way: normal patch), 2 scar; also 0 when no paste that was tried could be seen
    labels: Tensor
    masks: Tensor  # (V, h, w) bool: the pixels that a paste changed
    crop_top_left: tuple[int, int]  # row and column of the crop that all views show


def class_names(variant: str) -> tuple[str, ...]:
    """Return the names of the classes of a variant.

    Raises:
        ValueError: if there is no such variant; the message lists them.
    """
    if variant not in VARIANTS:
        raise ValueError(f'`variant` must be one of {", ".join(VARIANTS)}, got {variant!r}.')
    return ('untouched', 'patch', 'scar') if variant == '3way' else ('untouched', 'pasted')


def make_views(
    image: Tensor,
    generator: Generator,
    variant: str = '3way',
    patch: int | None = None,
    jitter: float = 0.1,
    ranges: CutPasteRanges | None = None,
    attempts: int = 16,
) -> Views:
    """Make the views of one image, or of one crop of it, which gives a representation of patches.

    ``normal`` and ``scar`` are the binary tasks of the paper, ``union`` mixes both in one class, ``3way`` tells them
    apart. The crop comes first, so every view shows the same place and every paste lies in it.

    Args:
        image: ``(3, H, W)`` float in [0, 1], RGB, at the size the network sees: pastes are sized for it.
        generator: CPU generator.
        variant: key of :data:`VARIANTS`.
        patch: side of the crop in pixels; None for the whole image.
        jitter: of the colours of the image before any paste, the same in all views.
        ranges: of the pastes; by default the paper's, scars in pixels of a 256 image also within a crop.
        attempts: pastes that are tried until one can be seen.
    """
    class_names(variant)
    values = 1 + jitter * (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1)
    brightness, contrast, saturation, hue = values.tolist()
    top_left = (0, 0)
    if patch is not None:
        size_hw = tuple(image.shape[1:])
        if not 1 <= patch <= min(size_hw):
            raise ValueError(f'`patch` must fit the image of {size_hw[0]}x{size_hw[1]}, got {patch} pixels.')
        uniform = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        top, left = top_left = tuple(_corner(size, patch, value) for size, value in zip(size_hw, uniform, strict=True))
        image = image[:, top : top + patch, left : left + patch]
        # Scars grow with the image; inside a crop they keep the size they have in the whole one.
        ranges = replace(ranges or PUBLISHED_RANGES, reference_size=patch)
    if jitter:
        image = adjust_color(image.reshape(1, 3, -1), (brightness, contrast, saturation, hue - 1)).view(image.shape)
    views = [(image, 0, torch.zeros(image.shape[1:], dtype=torch.bool))]
    for index, kind in enumerate(VARIANTS[variant], 1):
        made = cut_paste(image, generator, kind=kind, class_id=index, ranges=ranges, attempts=attempts)
        views.append((made.image, index if made.instances else 0, made.label > 0))
    images, labels, masks = zip(*views, strict=True)
    return Views(torch.stack(images), torch.tensor(labels), torch.stack(masks), top_left)
