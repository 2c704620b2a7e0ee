"""The views of one image that a CutPaste network tells apart, with the exact class and place of each paste.

Source: Li et al., CutPaste, CVPR 2021: ``normal`` and ``scar`` are its binary tasks, ``union`` mixes both in one class,
``3way`` tells them apart. All views are of one image (or of one crop of it, which gives a representation of patches:
the crop comes first, so that every view shows the same place and every paste lies in it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from mmdefect.synthesis.color import adjust_color
from mmdefect.synthesis.cutpaste import CutPasteRanges, cut_paste

#: Kinds of paste in the views that follow the untouched one.
VARIANTS = {'normal': ('normal',), 'scar': ('scar',), 'union': ('union',), '3way': ('normal', 'scar')}


@dataclass(frozen=True)
class Views:
    """The views of one image.

    Attributes:
        images: ``(V, 3, h, w)`` float in [0, 1], RGB; the first is untouched.
        labels: ``(V,)`` int64: 0 untouched, 1 pasted (3way: normal patch), 2 scar. A view is 0 when nothing could be seen
            of any paste that was tried.
        masks: ``(V, h, w)`` bool: the pixels that a paste changed.
        crop_top_left: row and column of the crop that all views show.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    crop_top_left: tuple[int, int]


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
    """Make the views of one image.

    Args:
        image: ``(3, H, W)`` float in [0, 1], RGB, at the size the network sees: pastes are sized for it.
        generator: CPU generator.
        variant: key of :data:`VARIANTS`.
        patch: side of the crop in pixels; None for the whole image.
        jitter: of the colours of the image before any paste, the same in all views.
        ranges: of the pastes; by default the paper's, scars in pixels of a 256 image also within a crop.
        attempts: draws until a paste can be seen.

    Returns:
        New tensors.
    """
    class_names(variant)
    values = 1 + jitter * (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1)
    brightness, contrast, saturation, hue = values.tolist()
    top_left = _draw_crop(tuple(image.shape[1:]), patch, generator)
    if patch is not None:
        top, left = top_left
        image = image[:, top : top + patch, left : left + patch]
        # Scars grow with the image; inside a crop they keep the size they have in the whole one.
        ranges = replace(ranges or CutPasteRanges(), reference_size=patch)
    if jitter:
        image = adjust_color(image.reshape(1, 3, -1), (brightness, contrast, saturation, hue - 1)).view(image.shape)
    images, labels, masks = [image], [0], [torch.zeros(image.shape[1:], dtype=torch.bool)]
    for index, kind in enumerate(VARIANTS[variant], 1):
        pasted = cut_paste(image, generator, kind=kind, class_id=index, ranges=ranges, attempts=attempts)
        images.append(pasted.image)
        labels.append(index if pasted.instances else 0)
        masks.append(pasted.label > 0)
    return Views(torch.stack(images), torch.tensor(labels), torch.stack(masks), top_left)


def _draw_crop(size_hw: tuple[int, int], patch: int | None, generator: Generator) -> tuple[int, int]:
    if patch is None:
        return 0, 0
    if not 1 <= patch <= min(size_hw):
        raise ValueError(f'`patch` must fit the image of {size_hw[0]}x{size_hw[1]}, got {patch} pixels.')
    draws = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    row, column = (min(int(draw * (size - patch + 1)), size - patch) for draw, size in zip(draws, size_hw, strict=True))
    return row, column
