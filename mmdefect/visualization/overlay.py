"""Labels on images: tinted pixels, outlines, boxes, and the difference of two images."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.visualization.text import Colour, draw_text, text_width

Palette = Sequence[Colour]
#: Colours of class 1, 2, ... when a data set names none: far apart, also for most colour-blind readers.
DEFECT_COLOURS: tuple[Colour, ...] = (
    (230, 57, 57),
    (60, 190, 80),
    (255, 200, 30),
    (60, 130, 240),
    (240, 110, 210),
    (40, 205, 210),
    (255, 135, 40),
    (150, 95, 235),
    (170, 215, 60),
    (200, 140, 100),
)
#: Label value that losses and metrics leave out, and its colour.
IGNORE, IGNORE_COLOUR = 255, (128, 128, 128)


def default_palette(num_classes: int) -> list[Colour]:
    """Return a colour for each class; class 0 is black and never drawn."""
    return [(0, 0, 0), *(DEFECT_COLOURS[k % len(DEFECT_COLOURS)] for k in range(num_classes - 1))][:num_classes]


def check_image(image: ndarray, name: str = 'image') -> None:
    """Raise ``ValueError`` unless the array is ``(H, W, 3)`` uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f'`{name}` must be (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}; convert it.')


def colour_table(palette: Palette) -> ndarray:
    """Return ``(256, 3)`` uint8: the palette, then black, with :data:`IGNORE_COLOUR` at 255."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
    table[IGNORE] = IGNORE_COLOUR
    return table


def outline_mask(mask: ndarray, width: int = 1) -> ndarray:
    """Return the pixels just outside a ``(H, W)`` bool mask, so that an outline hides nothing of a two-pixel defect."""
    if mask.ndim != 2:
        raise ValueError(f'`mask` must be (H, W), got {mask.shape}.')
    if width < 1:
        raise ValueError(f'`width` must be at least one pixel, got {width}.')
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    return (cv2.dilate(mask.astype(np.uint8), kernel) > 0) & ~mask.astype(bool)


def overlay_labels(image: ndarray, label: ndarray, palette: Palette, alpha: float = 0.45, outline: int = 1) -> ndarray:
    """Tint the labelled pixels of an image and draw a line around each region.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        label: ``(H, W)`` integers; 0 is normal and not drawn, 255 is ignored and drawn grey.
        palette: RGB of each class, index 0 included.
        alpha: strength of the tint in [0, 1].
        outline: thickness of the outline in pixels; 0 draws none.

    Returns:
        ``(H, W, 3)`` uint8; a new array.

    Raises:
        ValueError: if shapes differ, or a label value has no colour.
    """
    check_image(image)
    if label.shape != image.shape[:2]:
        want, got = image.shape[:2], label.shape
        raise ValueError(f'`label` must be {want} like the image, got {got}; resize it by nearest neighbour.')
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f'`alpha` must lie in [0, 1], got {alpha}.')
    values = [int(v) for v in np.unique(label) if v != 0]
    unknown = [v for v in values if v != IGNORE and not 0 < v < len(palette)]
    if unknown:
        raise ValueError(
            f'`label` must hold values below {len(palette)} (the palette) or {IGNORE}, got {unknown}; '
            'pass the palette of the data set the label comes from.'
        )
    table = colour_table(palette)
    index = np.where(np.isin(label, values), label, 0).astype(np.uint8)
    tinted = image * (1.0 - alpha) + table[index] * alpha
    out = np.where((index > 0)[..., None], np.round(tinted), image).astype(np.uint8)
    for value in values if outline else ():
        out[outline_mask(label == value, outline) & (label == 0)] = table[value]
    return out


def draw_boxes(
    image: ndarray, boxes_xyxy: ndarray, classes: Sequence[int], palette: Palette, names: Sequence[str] | None = None
) -> ndarray:
    """Draw instance boxes just outside the pixels they hold.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        boxes_xyxy: ``(N, 4)`` left, top, right, bottom in pixels, right and bottom excluded.
        classes: class of each box.
        palette: RGB of each class, index 0 included.
        names: name of each class; boxes carry no text without them.
    """
    check_image(image)
    boxes = np.asarray(boxes_xyxy, float).reshape(-1, 4)
    if len(boxes) != len(classes):
        raise ValueError(f'`boxes_xyxy` and `classes` must be equally many, got {len(boxes)} and {len(classes)}.')
    out = image.copy()
    for (left, top, right, bottom), index in zip(boxes, classes, strict=True):
        colour = tuple(int(v) for v in colour_table(palette)[int(index)])
        low = (int(np.floor(left)) - 2, int(np.floor(top)) - 2)
        high = (int(np.ceil(right)) + 1, int(np.ceil(bottom)) + 1)
        cv2.rectangle(out, low, high, colour, 1)
        if names is not None:
            text = str(names[int(index)])
            x = int(np.clip(low[0], 0, max(0, image.shape[1] - text_width(text, 11))))
            out = draw_text(out, text, (x, low[1] - 14 if low[1] >= 14 else high[1] + 1), 11, colour)
    return out


def difference(image_a: ndarray, image_b: ndarray, gain: float = 4.0) -> ndarray:
    """Show where two ``(H, W, 3)`` uint8 RGB images differ: ``128 + gain * (b - a)``, clipped to 0..255."""
    check_image(image_a, 'image_a')
    check_image(image_b, 'image_b')
    if image_a.shape != image_b.shape:
        raise ValueError(f'`image_a` and `image_b` must have one size, got {image_a.shape} and {image_b.shape}.')
    change = image_b.astype(np.float32) - image_a
    return np.clip(np.round(128.0 + gain * change), 0, 255).astype(np.uint8)


def overlay_heat(image: ndarray, heat: ndarray, low: float, high: float, alpha: float = 0.5) -> ndarray:
    """Lay a heat map over an image, transparent where it is low.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        heat: ``(H, W)`` float.
        low, high: heat that is not shown, and heat that is shown in full.
        alpha: strength at ``high``, in [0, 1].
    """
    check_image(image)
    if heat.shape != image.shape[:2]:
        raise ValueError(f'`heat` must be {image.shape[:2]} like the image, got {heat.shape}; resize it first.')
    level = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)
    colour = cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weight = alpha * np.sqrt(level)[..., None]  # the root keeps weak heat visible
    return np.round(image * (1 - weight) + colour * weight).astype(np.uint8)
