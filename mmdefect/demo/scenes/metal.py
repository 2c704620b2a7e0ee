"""Ground sheet metal under a bar lamp."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from mmdefect.demo.noise import fractal_noise, smooth_noise, streaks, unit_grid, white_noise
from mmdefect.demo.types import Camera, Light, Material, Scene, Surface

MATERIAL = Material(
    fresh=(0.78, 0.77, 0.75),
    backing=(0.035, 0.028, 0.024),
    particle=((0.09, 0.08, 0.07), (0.55, 0.40, 0.16), (0.75, 0.76, 0.78)),
    stain=((0.55, 0.44, 0.30), (0.42, 0.40, 0.40), (0.62, 0.40, 0.24)),
)


def metal_scene(rng: Generator, size_hw: tuple[int, int]) -> Scene:
    """Return one piece of ground metal: grinding lines, slight waviness, a soft band of glare.

    Args:
        rng: source of everything that varies from piece to piece.
        size_hw: height and width of the image in pixels.
    """
    unit = min(size_hw) / 256.0
    angle = float(rng.normal(0.0, 0.025))
    fine = streaks(rng, size_hw, 26 * unit, angle)
    coarse = streaks(rng, size_hw, 90 * unit, angle)
    # A worn belt leaves a few deep lines between many shallow ones.
    deep = np.clip(np.abs(coarse) - 1.6, 0.0, 2.0) * np.sign(coarse)
    waves = smooth_noise(rng, size_hw, 70 * unit)
    shallow = fine + 0.8 * coarse
    relief = 0.16 * shallow + 0.42 * deep + 0.8 * unit * waves

    blotch = fractal_noise(rng, size_hw, 40 * unit, 3)
    tone = 0.25 * (1.0 + 0.030 * shallow + 0.05 * deep + 0.025 * blotch + 0.03 * white_noise(rng, size_hw))
    tint = np.array([1.0, 0.985, 0.955], np.float32) + rng.normal(0, 0.008, 3).astype(np.float32)
    albedo = np.clip(tone[..., None] * tint, 0.02, 1.0).astype(np.float32)
    gloss = np.clip(0.42 + 0.02 * shallow - 0.02 * blotch, 0.0, 1.0).astype(np.float32)

    y, x = unit_grid(size_hw)
    along, across = rng.uniform(-0.22, 0.22), rng.uniform(-0.16, 0.16)
    field = 1.0 + along * x + across * y - 0.30 * (x * x + y * y)
    camera = Camera(
        field=field.astype(np.float32) * np.float32(rng.uniform(0.92, 1.06)),
        blur_sigma=float(rng.uniform(0.55, 0.75)),
        noise=np.stack([white_noise(rng, size_hw) for _ in range(3)], axis=-1),
    )
    tilt = float(rng.uniform(-0.25, 0.25))
    key = np.array([tilt, -0.45, 0.86]) / np.linalg.norm([tilt, -0.45, 0.86])
    return Scene(
        surface=Surface(relief.astype(np.float32), albedo, gloss, np.ones(size_hw, np.float32)),
        backdrop=np.zeros((*size_hw, 3), np.float32),
        inside=np.full(size_hw, 1e4, np.float32),
        lights=(Light(tuple(float(v) for v in key), 0.62, 0.75),),
        ambient=0.40,
        lobe=(0.26, 0.36),
        bend=0.45,
        cavity=0.0,
        camera=camera,
        material=MATERIAL,
    )
