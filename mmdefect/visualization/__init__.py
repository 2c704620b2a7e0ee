"""Drawing functions: arrays in, array out, always ``(H, W, 3)`` uint8 RGB."""

from mmdefect.visualization.grid import image_grid, legend
from mmdefect.visualization.overlay import (
    DEFECT_COLOURS,
    default_palette,
    difference,
    draw_boxes,
    outline_mask,
    overlay_heat,
    overlay_labels,
)
from mmdefect.visualization.text import draw_text, text_strip

__all__ = [
    'DEFECT_COLOURS',
    'default_palette',
    'difference',
    'draw_boxes',
    'draw_text',
    'image_grid',
    'legend',
    'outline_mask',
    'overlay_heat',
    'overlay_labels',
    'text_strip',
]
