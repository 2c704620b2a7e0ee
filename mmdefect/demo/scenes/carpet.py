"""Woven fabric: warp and weft as round yarns that pass over and under each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.noise import smooth_noise, unit_grid, white_noise
from mmdefect.demo.types import Camera, Light, Material, Scene, Surface

#: Yarns along the short side of the image.
YARNS = 30

MATERIAL = Material(
    fresh=(0.42, 0.38, 0.33),
    backing=(0.050, 0.042, 0.034),
    particle=((0.62, 0.63, 0.66), (0.58, 0.42, 0.18), (0.70, 0.70, 0.68)),
    stain=((0.45, 0.30, 0.22), (0.36, 0.38, 0.48), (0.60, 0.34, 0.30)),
)


def _yarn(across: ndarray, along: ndarray, rng: Generator) -> tuple[ndarray, ndarray]:
    """Return the round profile in [0, 1] and the relative brightness of yarns numbered by ``floor(across)``."""
    index = np.floor(across)
    offset = 2.0 * (across - index - 0.5)
    profile = np.sqrt(np.maximum(1.0 - offset * offset, 0.0))
    number = index.astype(np.int32)
    number -= int(number.min())
    per_yarn = rng.normal(0.0, 0.06, int(number.max()) + 1).astype(np.float32)[number]
    # Twist: fibres cross the yarn at an angle, so brightness runs along oblique lines.
    phase = rng.uniform(0, 2 * np.pi, int(number.max()) + 1).astype(np.float32)[number]
    twist = 0.07 * np.sin(2 * np.pi * (2.1 * along + 0.55 * offset) + phase)
    return profile, per_yarn + twist


def carpet_scene(rng: Generator, size_hw: tuple[int, int]) -> Scene:
    """Return one piece of twill fabric with uneven yarns and loose fibres.

    Args:
        rng: source of everything that varies from piece to piece.
        size_hw: height and width of the image in pixels.
    """
    unit = min(size_hw) / 256.0
    pitch = min(size_hw) / YARNS
    y, x = unit_grid(size_hw)
    angle = float(rng.normal(0.0, 0.02))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    wobble_u = 0.22 * smooth_noise(rng, size_hw, 42 * unit) + 0.05 * smooth_noise(rng, size_hw, 9 * unit)
    wobble_v = 0.22 * smooth_noise(rng, size_hw, 42 * unit) + 0.05 * smooth_noise(rng, size_hw, 9 * unit)
    u = YARNS * (cos * x + sin * y) + rng.uniform(0, 1) + wobble_u
    v = YARNS * (cos * y - sin * x) + rng.uniform(0, 1) + wobble_v

    warp, warp_tone = _yarn(u, v, rng)
    weft, weft_tone = _yarn(v, u, rng)
    # 2/2 twill: a yarn passes over two and under two, each row shifted by one.
    lift = np.cos(0.5 * np.pi * (u - v) + 0.25 * np.pi).astype(np.float32)
    warp_height = 0.55 * warp + 0.62 * lift
    weft_height = 0.55 * weft - 0.62 * lift
    on_top = warp_height > weft_height
    height = np.maximum(warp_height, weft_height)

    fuzz = white_noise(rng, size_hw)
    tone = np.where(on_top, warp_tone, weft_tone) + 0.05 * smooth_noise(rng, size_hw, 60 * unit) + 0.07 * fuzz
    warp_rgb = np.array([0.250, 0.232, 0.210], np.float32)
    weft_rgb = np.array([0.325, 0.300, 0.265], np.float32)
    albedo = np.where(on_top[..., None], warp_rgb, weft_rgb) * (1.0 + tone)[..., None]
    relief = (0.42 * pitch * height + 0.10 * fuzz).astype(np.float32)

    along, across = rng.uniform(-0.15, 0.15, 2)
    field = rng.uniform(0.92, 1.06) * (1.0 + along * x + across * y - 0.25 * (x * x + y * y))
    camera = Camera(
        field=field.astype(np.float32),
        blur_sigma=float(rng.uniform(0.6, 0.8)),
        noise=np.stack([white_noise(rng, size_hw) for _ in range(3)], axis=-1),
    )
    return Scene(
        surface=Surface(
            relief,
            np.clip(albedo, 0.01, 1.0).astype(np.float32),
            np.full(size_hw, 0.015, np.float32),
            np.ones(size_hw, np.float32),
        ),
        backdrop=np.zeros((*size_hw, 3), np.float32),
        inside=np.full(size_hw, 1e4, np.float32),
        lights=(Light((-0.42, -0.48, 0.77), 0.62, 0.4),),
        ambient=0.62,
        lobe=(0.5, 0.5),
        bend=0.0,
        cavity=1.1,
        camera=camera,
        material=replace(MATERIAL, grain_angle=angle, pitch=pitch),
    )
