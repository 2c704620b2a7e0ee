"""Draw the house and the path of one training image through it: writes docs/images/house.png.

Run from the root of the repository::

    python docs/draw_house.py

Boxes and counts come from the files of the package, the path from docs/architecture.md, which a test holds against the
files that an image really passes.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    ('faces', ('tools', 'bash', 'apis'), '#dbe7f5'),
    (
        'adapters: register with mmseg, translate its dictionaries',
        ('datasets', 'models', 'engine', 'evaluation', 'inference'),
        '#e3f0dd',
    ),
    (
        'pure: tensors, arrays and small dataclasses',
        ('functional', 'synthesis', 'diffusion', 'deployment', 'experiments', 'visualization', 'demo'),
        '#f8eed8',
    ),
)
WIDTH = 12.0


def count(name: str) -> str:
    """Return how many modules and lines a room has."""
    folder = ROOT / name if name in ('tools', 'bash') else ROOT / 'mmdefect' / name
    files = [path for path in folder.rglob('*.*') if path.suffix in ('.py', '.sh')]
    lines = sum(len(path.read_text(encoding='utf-8').splitlines()) for path in files)
    return f'{len(files)} files, {lines:,} lines'


def box(axes, left: float, top: float, width: float, height: float, colour: str, text: str, small: str = '') -> None:
    """Draw a rounded box with a name and a small line below it."""
    style = FancyBboxPatch(
        (left, top - height), width, height, 'round,pad=0,rounding_size=0.08', fc=colour, ec='#555555', lw=0.8
    )
    axes.add_patch(style)
    axes.text(left + width / 2, top - height / 2 + (0.09 if small else 0), text, ha='center', va='center', fontsize=9)
    if small:
        axes.text(
            left + width / 2, top - height / 2 - 0.12, small, ha='center', va='center', fontsize=6, color='#444444'
        )


def arrow(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow."""
    axes.annotate('', end, start, arrowprops=dict(arrowstyle='-|>', color='#555555', lw=1))


def draw_floors(axes) -> float:
    """Draw the layers with their rooms, arrows going down; return where they end."""
    top = 0.0
    for number, (title, rooms, colour) in enumerate(FLOORS):
        axes.text(0, top - 0.05, title, fontsize=8, va='top', color='#333333')
        width = (WIDTH - 0.15 * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            box(axes, place * (width + 0.15), top - 0.3, width, 0.62, colour, room, count(room))
        if number + 1 < len(FLOORS):
            arrow(axes, (WIDTH / 2, top - 0.92), (WIDTH / 2, top - 1.22))
        top -= 1.22
    return top


def draw_path(axes, top: float) -> None:
    """Draw the files that one pasted training image passes, in the order of the docs."""
    text = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    section = text.split('## The path of one training image')[1].split('\n## ')[0]
    files = list(dict.fromkeys(re.findall(r'^\d+\. `([\w/]+\.py)`', section, re.MULTILINE)))
    axes.text(0, top - 0.2, 'the path of one training image with pasted defects', fontsize=8, va='top', color='#333333')
    columns = 5
    width = (WIDTH - 0.3 * (columns - 1)) / columns
    for number, name in enumerate(files):
        row, column = divmod(number, columns)
        left, upper = column * (width + 0.3), top - 0.45 - 0.6 * row
        room, _, module = name.rpartition('/')
        box(
            axes,
            left,
            upper,
            width,
            0.46,
            FLOORS[1][2] if room.startswith('datasets') else FLOORS[2][2],
            f'{number + 1}  {module}',
            room,
        )
        if number + 1 < len(files) and column + 1 < columns:
            arrow(axes, (left + width, upper - 0.23), (left + width + 0.3, upper - 0.23))


def main() -> None:
    figure, axes = plt.subplots(figsize=(11, 5.4))
    axes.set_xlim(-0.1, WIDTH + 0.1)
    axes.set_ylim(-6.0, 0.1)
    axes.axis('off')
    draw_path(axes, draw_floors(axes))
    figure.savefig(ROOT / 'docs' / 'images' / 'house.png', dpi=110, bbox_inches='tight')


if __name__ == '__main__':
    main()
