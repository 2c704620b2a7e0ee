"""Yarns missing from a weave, so that the backing shows through a ladder of the crossing yarns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdefect.demo.defects.fibres import open_up
from mmdefect.demo.defects.region import Window, copy_surface, pick_site
from mmdefect.demo.noise import smooth_noise, smoothstep
from mmdefect.demo.types import Scene, Surface


@dataclass(frozen=True)
class MissingYarn:
    """A strip along the weave from which the yarn is gone.

    Attributes:
        centre_xy: middle of the strip in pixels.
        heading: direction of the strip in radians.
        length: its length in pixels.
        width: its width in pixels.
        ladder: in [0, 1], how much of the crossing yarns is left in it.
        seed: seed of the uneven sides.
    """

    centre_xy: tuple[float, float]
    heading: float
    length: float
    width: float
    ladder: float
    seed: int

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return the surface without the yarn."""
        surface = copy_surface(surface)
        half = np.array([np.cos(self.heading), np.sin(self.heading)]) * self.length / 2
        ends = np.array([np.array(self.centre_xy) - half, np.array(self.centre_xy) + half])
        window = Window.around(ends, 1.5 * self.width + 3, scene.size_hw)
        view = window.slices
        rng = np.random.default_rng(self.seed)
        x, y = window.grid()
        x, y = x - np.float32(self.centre_xy[0]), y - np.float32(self.centre_xy[1])
        cos, sin = np.float32(np.cos(self.heading)), np.float32(np.sin(self.heading))
        along, across = cos * x + sin * y, cos * y - sin * x
        across += 0.10 * self.width * smooth_noise(rng, window.size_hw, 1.5 * scene.material.pitch)
        uneven = 0.8 * scene.material.pitch * smooth_noise(rng, window.size_hw, 0.7 * scene.material.pitch)
        gap = smoothstep(0.0, 0.22 * self.width, self.width / 2 - np.abs(across))
        gap *= smoothstep(0.0, 0.6 * scene.material.pitch, self.length / 2 - np.abs(along) + uneven)
        # What stands high in the weave is the crossing system; some of it still bridges the gap.
        height = surface.height[view]
        relief = (height - height.mean()) / np.float32(height.std() + 1e-6)
        bridge = self.ladder * smoothstep(-0.1, 0.8, relief)
        open_up(surface, scene, window, gap * (1.0 - bridge), depth=0.4 * scene.material.pitch)
        surface.albedo[view] *= 1.0 - 0.25 * (gap * bridge)[..., None]
        return surface


def sample_missing_yarn(rng: Generator, scene: Scene) -> MissingYarn:
    """Return a gap of one or two yarns, 25 to 90 pixels long in an image of 256.

    Raises:
        ValueError: if the scene is not woven.
    """
    pitch = scene.material.pitch
    if not pitch:
        raise ValueError('`scene` must be woven to lose a yarn; choose another defect for this material.')
    heading = scene.material.grain_angle + (np.pi / 2 if rng.uniform() < 0.5 else 0.0)
    return MissingYarn(
        pick_site(rng, scene, 12.0 * scene.unit),
        float(heading),
        float(rng.uniform(25.0, 90.0)) * scene.unit,
        pitch * float(rng.choice([0.9, 1.1, 1.8])),
        float(rng.uniform(0.5, 0.95)),
        int(rng.integers(2**31)),
    )
