"""Where a defect sits and what shape it has: sites, windows, coverage of lines and polygons."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.scene import Scene

#: Coverage is drawn this many times finer and averaged, so that edges and thin lines are smooth.
SUPERSAMPLE = 4

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels, rows ``top`` to ``bottom`` and columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def around(cls, points_xy: ndarray, margin: float, size_hw: tuple[int, int]) -> Window:
        """Return the window that holds all ``(N, 2)`` points and ``margin`` pixels around them, cut at the frame."""
        low = np.floor(np.min(points_xy, axis=0) - margin).astype(int)
        high = np.ceil(np.max(points_xy, axis=0) + margin).astype(int) + 1
        top, bottom = np.clip((low[1], high[1]), 0, size_hw[0])
        left, right = np.clip((low[0], high[0]), 0, size_hw[1])
        return cls(int(top), int(max(bottom, top + 1)), int(left), int(max(right, left + 1)))

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index that cuts the window out of an ``(H, W)`` array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bottom - self.top, self.right - self.left

    def grid(self) -> tuple[ndarray, ndarray]:
        """Return ``(x, y)`` of the pixel centres in the coordinates of the whole image, float32."""
        y, x = np.mgrid[self.top : self.bottom, self.left : self.right].astype(np.float32)
        return x, y


def as_points(points_xy: ndarray) -> Points:
    """Return ``(N, 2)`` x, y as plain numbers, for the record of a defect."""
    return tuple((float(x), float(y)) for x, y in points_xy)


def tint(albedo: ndarray, rgb: tuple[float, float, float] | ndarray, weight: ndarray) -> None:
    """Mix a colour into ``(h, w, 3)`` albedo in place, ``(h, w)`` weight 1 meaning all of it."""
    albedo += (np.asarray(rgb, np.float32) - albedo) * weight[..., None]


def pick_site(rng: Generator, scene: Scene, margin: float) -> tuple[float, float]:
    """Return x, y of a point on the object, at least ``margin`` pixels from its outline and from the frame."""
    height, width = scene.size_hw
    pad = min(margin, min(scene.size_hw) / 2 - 1)
    for _ in range(500):
        x, y = rng.uniform(pad, width - 1 - pad), rng.uniform(pad, height - 1 - pad)
        if scene.inside[int(y), int(x)] > margin:
            return float(x), float(y)
    raise ValueError(
        f'`margin` must leave room on the object, but no point lies {margin:.1f} pixels inside a scene of '
        f'{scene.size_hw}; use a larger image or a smaller defect.'
    )


def pick_outline(rng: Generator, scene: Scene) -> tuple[float, float, float]:
    """Return x, y of a point on the object's outline (hole rims included) and the angle of the inward normal."""
    rows, cols = np.nonzero(np.abs(scene.inside) < 0.6)
    if not len(rows):
        raise ValueError('`scene` must hold an object with an outline; textures have none, choose another defect.')
    k = int(rng.integers(len(rows)))
    row = int(np.clip(rows[k], 2, scene.size_hw[0] - 3))
    col = int(np.clip(cols[k], 2, scene.size_hw[1] - 3))
    slope_x = scene.inside[row, col + 2] - scene.inside[row, col - 2]
    slope_y = scene.inside[row + 2, col] - scene.inside[row - 2, col]
    return float(col), float(row), float(np.arctan2(slope_y, slope_x))


def polygon_cover(points_xy: ndarray, window: Window) -> ndarray:
    """Return how much of each pixel of the window a polygon covers: ``(h, w)`` float32 in [0, 1]."""
    canvas, corners = _fine_canvas(points_xy, window)
    cv2.fillPoly(canvas, [np.round(corners * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return _average(canvas, window)


def line_cover(points_xy: ndarray, widths: ndarray, strengths: ndarray, window: Window) -> ndarray:
    """Return how much of each pixel a line covers, times its strength: ``(h, w)`` in [0, 1].

    At each of its ``(N, 2)`` points the line has a width in pixels and a strength in [0, 1], both ``(N,)``.
    """
    canvas, path = _fine_canvas(points_xy, window)
    fixed = np.round(path * 16).astype(np.int32)
    for k in range(len(fixed) - 1):
        wide = SUPERSAMPLE * 0.5 * (widths[k] + widths[k + 1])
        level = 255 * 0.5 * (strengths[k] + strengths[k + 1])
        # A line thinner than the finest stroke is drawn with that stroke and less strength.
        ends = fixed[k].tolist(), fixed[k + 1].tolist()
        cv2.line(canvas, *ends, round(level * min(1.0, wide)), max(1, round(wide)), cv2.LINE_8, 4)
    return _average(canvas, window)


def _fine_canvas(points_xy: ndarray, window: Window) -> tuple[ndarray, ndarray]:
    height, width = window.size_hw
    canvas = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    origin = np.array([window.left, window.top], np.float64)
    return canvas, (np.asarray(points_xy, np.float64) - origin + 0.5) * SUPERSAMPLE - 0.5


def _average(canvas: ndarray, window: Window) -> ndarray:
    small = cv2.resize(canvas, window.size_hw[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255.0


def rough_polygon(
    rng: Generator, centre_xy: tuple[float, float], radius: float, corners: int, roughness: float
) -> ndarray:
    """Return a random star-shaped polygon, ``(corners, 2)`` x, y; ``roughness`` is the spread of its radii."""
    angles = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * (2 * np.pi / corners) + rng.uniform(0, 6.28)
    radii = radius * np.clip(1.0 + roughness * rng.standard_normal(corners), 0.35, 1.7)
    return np.stack([centre_xy[0] + radii * np.cos(angles), centre_xy[1] + radii * np.sin(angles)], axis=1)


def _wander(rng: Generator, scene: Scene, length: float, heading: float, curl: float) -> Points:
    """Return a smooth wandering line that starts on the object and stops where it would leave it."""
    step = 2.0 * scene.unit
    x, y = pick_site(rng, scene, 4.0 * scene.unit)
    bend = rng.normal(0.0, curl)
    points = [(x, y)]
    for _ in range(max(3, int(length / step))):
        bend += rng.normal(0.0, 0.25 * curl)
        heading += bend * step
        x, y = x + step * float(np.cos(heading)), y + step * float(np.sin(heading))
        inside_frame = 1 <= x < scene.size_hw[1] - 1 and 1 <= y < scene.size_hw[0] - 1
        if not inside_frame or scene.inside[int(y), int(x)] < 1.5:
            break
        points.append((x, y))
    return tuple(points)


def sample_path(rng: Generator, scene: Scene, length_range: tuple[float, float], curl: float) -> Points:
    """Return a path of at least half the lowest length; the longest of a few tries where the object leaves no room."""
    tries = []
    for _ in range(12):
        length = float(np.exp(rng.uniform(*np.log(length_range)))) * scene.unit
        heading = scene.material.grain_angle + rng.uniform(0.2, np.pi - 0.2) + np.pi * rng.integers(2)
        tries.append(_wander(rng, scene, length, heading, curl / scene.unit))
        if len(tries[-1]) * 2.0 >= 0.5 * length_range[0]:
            return tries[-1]
    return max(tries, key=len)
