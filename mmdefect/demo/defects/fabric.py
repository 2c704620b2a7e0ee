"""Defects of woven fabric: cuts, holes and missing yarns, with the loose fibres of torn edges."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.defects.region import (
    Points,
    Window,
    as_points,
    line_cover,
    pick_site,
    polygon_cover,
    rough_polygon,
    sample_path,
    tint,
)
from mmdefect.demo.noise import smooth_noise, smoothstep, white_noise
from mmdefect.demo.scene import Scene, Surface


@dataclass(frozen=True)
class Fibre:
    """One loose fibre: its line and width in pixels, and its brightness relative to the yarn."""

    path_xy: Points
    width: float
    brightness: float


def sample_fibre(rng: Generator, root_xy: tuple[float, float], heading: float, length: float, width: float) -> Fibre:
    """Return a fibre that starts at ``root_xy`` and curls away from ``heading``, ``length`` pixels long."""
    x, y = root_xy
    curl, points = rng.normal(0.0, 0.22), [root_xy]
    for _ in range(6):
        heading += curl + rng.normal(0.0, 0.12)
        x, y = x + length / 6 * float(np.cos(heading)), y + length / 6 * float(np.sin(heading))
        points.append((x, y))
    return Fibre(as_points(points), width, float(rng.uniform(0.6, 1.15)))


def lay_fibres(surface: Surface, scene: Scene, fibres: tuple[Fibre, ...]) -> None:
    """Draw fibres onto a surface in place."""
    for fibre in fibres:
        path = np.array(fibre.path_xy)
        window = Window.around(path, 2.0 + fibre.width, scene.size_hw)
        view = window.slices
        taper = np.linspace(1.0, 0.45, len(path))
        cover = line_cover(path, fibre.width * taper, np.full(len(path), 0.9), window)
        surface.height[view] += 0.8 * fibre.width * cover
        tint(surface.albedo[view], np.float32(scene.material.fresh) * np.float32(fibre.brightness), cover)


def open_up(surface: Surface, scene: Scene, window: Window, cover: ndarray, depth: float) -> None:
    """Take fabric of some depth in pixels away in place, by ``(h, w)`` cover in [0, 1], and show the shaded backing."""
    view = window.slices
    lx, ly, lz = scene.lights[0].direction
    # The edge nearest to the lamp throws its shadow this far.
    shift = np.float32([[1, 0, -lx / lz * depth], [0, 1, -ly / lz * depth]])
    lit = cv2.warpAffine(cover, shift, cover.shape[::-1], flags=cv2.INTER_LINEAR)
    floor = np.float32(scene.material.backing) * (0.25 + 0.75 * lit)[..., None]
    tint(surface.albedo[view], floor, cover)
    surface.gloss[view] *= 1.0 - cover
    # The floor lies deep and is flat; the walls get their slope from the soft cover.
    surface.height[view] += (np.float32(surface.height[view].mean()) - surface.height[view]) * (0.8 * cover)
    surface.height[view] -= 0.6 * depth * cover


@dataclass(frozen=True)
class Cut:
    """A slit through fabric: the backing shows and loose fibres stand along it."""

    path_xy: Points  # points of the line in pixels
    widths: tuple[float, ...]  # width at each point in pixels
    fibres: tuple[Fibre, ...]  # loose ends along the slit
    seed: int  # seed of the uneven edge

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
        path, widths = np.array(self.path_xy), np.array(self.widths)
        window = Window.around(path, 5.0 + 2.5 * widths.max(), scene.size_hw)
        cover = line_cover(path, widths, np.ones(len(widths)), window)
        ends = cv2.GaussianBlur(white_noise(np.random.default_rng(self.seed), window.size_hw), (0, 0), 1.0) * 3.5
        cover = np.clip(cover * (1.0 - 0.35 * np.maximum(ends, 0.0)), 0.0, 1.0)
        open_up(surface, scene, window, cover, depth=0.3 * scene.material.pitch)
        lay_fibres(surface, scene, self.fibres)
        return surface


def sample_cut(rng: Generator, scene: Scene) -> Cut:
    """Return a random cut: 18 to 70 pixels long and two to four pixels wide in an image of 256."""
    path = sample_path(rng, scene, (18.0, 70.0), 0.008)
    position = np.linspace(0.0, 1.0, len(path))
    gape = np.sin(np.pi * np.clip(position * 0.92 + 0.04, 0, 1)) ** 0.7
    waver = 1.0 + 0.2 * np.interp(position, np.linspace(0, 1, 8), rng.standard_normal(8))
    base = float(rng.uniform(2.0, 4.2)) * max(scene.unit, 0.7)
    fibres = []
    for _ in range(max(2, len(path) // 3)):
        k = int(rng.integers(len(path) - 1))
        along = np.arctan2(path[k + 1][1] - path[k][1], path[k + 1][0] - path[k][0])
        heading = along + rng.choice([-1, 1]) * rng.uniform(0.6, 1.5)
        length = float(rng.uniform(2.5, 6.5)) * scene.unit
        width = float(rng.uniform(0.4, 0.9)) * max(scene.unit, 0.7)
        fibres.append(sample_fibre(rng, path[k], float(heading), length, width))
    return Cut(path, tuple((base * gape * waver).clip(0.5).tolist()), tuple(fibres), seed=int(rng.integers(2**31)))


@dataclass(frozen=True)
class Hole:
    """A hole through fabric with a frayed edge."""

    outline_xy: Points  # corners of the hole in pixels
    fibres: tuple[Fibre, ...]  # loose ends that reach into it
    seed: int  # seed of the uneven edge

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
        outline = np.array(self.outline_xy)
        window = Window.around(outline, 8.0 * max(scene.unit, 1.0), scene.size_hw)
        view = window.slices
        rng = np.random.default_rng(self.seed)
        ends = smooth_noise(rng, window.size_hw, 2.5 * max(scene.unit, 0.8))
        soft = cv2.GaussianBlur(polygon_cover(outline, window), (0, 0), 1.8 * max(scene.unit, 0.7))
        # Yarns break at different lengths: the weave's own relief decides where the edge runs.
        relief = (surface.height[view] - surface.height[view].mean()) / np.float32(surface.height[view].std() + 1e-6)
        cover = smoothstep(0.36, 0.64, soft - 0.10 * relief - 0.08 * ends)
        cover *= soft > 0.02
        open_up(surface, scene, window, cover, depth=0.45 * scene.material.pitch)
        lay_fibres(surface, scene, self.fibres)
        return surface


def sample_hole(rng: Generator, scene: Scene) -> Hole:
    """Return a hole of 3.5 to 11 pixels in radius in an image of 256."""
    radius = float(np.exp(rng.uniform(np.log(3.5), np.log(11.0)))) * scene.unit
    x, y = pick_site(rng, scene, 8.0 * scene.unit)
    outline = rough_polygon(rng, (x, y), radius, int(rng.integers(9, 15)), 0.2)
    fibres = []
    for _ in range(int(rng.integers(5, 14))):
        rx, ry = outline[int(rng.integers(len(outline)))] + rng.normal(0, 0.1 * radius, 2)
        inward = float(np.arctan2(y - ry, x - rx)) + rng.normal(0.0, 0.7)
        length = radius * float(rng.uniform(0.4, 1.1))
        width = float(rng.uniform(0.4, 0.9)) * max(scene.unit, 0.7)
        fibres.append(sample_fibre(rng, (float(rx), float(ry)), inward, length, width))
    return Hole(as_points(outline), tuple(fibres), int(rng.integers(2**31)))


@dataclass(frozen=True)
class MissingYarn:
    """A strip along the weave from which the yarn is gone."""

    centre_xy: tuple[float, float]  # middle of the strip in pixels
    heading: float  # direction of the strip in radians
    length: float  # its length in pixels
    width: float  # its width in pixels
    ladder: float  # in [0, 1], how much of the crossing yarns is left in it
    seed: int  # seed of the uneven sides

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        surface = surface.copy()
        pitch, centre = scene.material.pitch, np.array(self.centre_xy)
        half = np.array([np.cos(self.heading), np.sin(self.heading)]) * self.length / 2
        ends = np.array([centre - half, centre + half])
        window = Window.around(ends, 1.5 * self.width + 3, scene.size_hw)
        view = window.slices
        rng = np.random.default_rng(self.seed)
        x, y = window.grid()
        x, y = x - np.float32(self.centre_xy[0]), y - np.float32(self.centre_xy[1])
        cos, sin = np.float32(np.cos(self.heading)), np.float32(np.sin(self.heading))
        along, across = cos * x + sin * y, cos * y - sin * x
        across += 0.10 * self.width * smooth_noise(rng, window.size_hw, 1.5 * pitch)
        uneven = 0.8 * pitch * smooth_noise(rng, window.size_hw, 0.7 * pitch)
        gap = smoothstep(0.0, 0.22 * self.width, self.width / 2 - np.abs(across))
        gap *= smoothstep(0.0, 0.6 * pitch, self.length / 2 - np.abs(along) + uneven)
        # What stands high in the weave is the crossing system; some of it still bridges the gap.
        height = surface.height[view]
        relief = (height - height.mean()) / np.float32(height.std() + 1e-6)
        bridge = self.ladder * smoothstep(-0.1, 0.8, relief)
        open_up(surface, scene, window, gap * (1.0 - bridge), depth=0.4 * pitch)
        surface.albedo[view] *= 1.0 - 0.25 * (gap * bridge)[..., None]
        return surface


def sample_missing_yarn(rng: Generator, scene: Scene) -> MissingYarn:
    """Return a gap of one or two yarns, 25 to 90 pixels long in an image of 256."""
    pitch = scene.material.pitch
    if not pitch:
        raise ValueError('`scene` must be woven to lose a yarn; choose another defect for this material.')
    heading = scene.material.grain_angle + (np.pi / 2 if rng.uniform() < 0.5 else 0.0)
    centre_xy, length = pick_site(rng, scene, 12.0 * scene.unit), float(rng.uniform(25.0, 90.0)) * scene.unit
    width, ladder = pitch * float(rng.choice([0.9, 1.1, 1.8])), float(rng.uniform(0.5, 0.95))
    return MissingYarn(centre_xy, float(heading), length, width, ladder, int(rng.integers(2**31)))
