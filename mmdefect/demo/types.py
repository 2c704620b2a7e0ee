"""What a scene is made of: a surface, the light on it, the camera above it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray


@dataclass(frozen=True)
class Surface:
    """Geometry and material of everything the camera sees; a defect turns one surface into another.

    Attributes:
        height: ``(H, W)`` float32, elevation in pixels; only its slope matters.
        albedo: ``(H, W, 3)`` float32 linear reflectance in [0, 1], RGB.
        gloss: ``(H, W)`` float32 strength of the mirror-like reflection, >= 0.
        cover: ``(H, W)`` float32 in [0, 1], how much of the pixel the object covers; 1 everywhere for a texture.
    """

    height: ndarray
    albedo: ndarray
    gloss: ndarray
    cover: ndarray


@dataclass(frozen=True)
class Light:
    """A distant lamp.

    Attributes:
        direction: x, y, z of the unit vector towards the lamp; z points to the camera.
        power: diffuse strength.
        glare: strength of its mirror image on a surface with gloss one.
    """

    direction: tuple[float, float, float]
    power: float
    glare: float


@dataclass(frozen=True)
class Camera:
    """Exposure, optics and sensor.

    Attributes:
        field: ``(H, W)`` float32, brightness of the illumination times vignetting.
        blur_sigma: point spread of the optics in pixels.
        noise: ``(H, W, 3)`` float32 standard normal; the same array in both renders of a pair.
        read_noise: deviation at black, in units of full scale.
        shot_noise: variance per unit of signal.
    """

    field: ndarray
    blur_sigma: float
    noise: ndarray
    read_noise: float = 0.0016
    shot_noise: float = 0.00008


@dataclass(frozen=True)
class Material:
    """The colours that a defect brings to light, all linear RGB.

    Attributes:
        fresh: what a scratch or a fracture exposes.
        backing: what lies under a hole.
        particle: colours that attached particles are drawn from.
        stain: factors by which stains multiply the albedo.
        grain_angle: direction of threads or grinding lines in radians.
        pitch: distance between threads in pixels; 0 where there are none.
    """

    fresh: tuple[float, float, float]
    backing: tuple[float, float, float]
    particle: tuple[tuple[float, float, float], ...]
    stain: tuple[tuple[float, float, float], ...]
    grain_angle: float = 0.0
    pitch: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything needed to take the image, with or without defects.

    Attributes:
        surface: the intact surface.
        backdrop: ``(H, W, 3)`` float32 linear, what is seen where the object is not, its shadow included.
        inside: ``(H, W)`` float32, distance in pixels to the outline of the object, positive on it; large for textures.
        lights: the lamps.
        ambient: light from everywhere.
        lobe: width of the glare along x and y, as slopes.
        bend: how fast the mirror direction changes across the image (a near lamp).
        cavity: how strongly low places are darkened.
        camera: exposure, optics and sensor.
        material: colours for defects.
        corners: ``(N, 2)`` float32 x, y of the object's corners in pixels, sharpest first; empty for textures.
    """

    surface: Surface
    backdrop: ndarray
    inside: ndarray
    lights: tuple[Light, ...]
    ambient: float
    lobe: tuple[float, float]
    bend: float
    cavity: float
    camera: Camera
    material: Material
    corners: ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.inside.shape

    @property
    def unit(self) -> float:
        """One 256th of the short side in pixels: lengths of defects are written for an image of 256."""
        return min(self.size_hw) / 256.0

    @property
    def support(self) -> ndarray:
        """``(H, W)`` bool, where a defect may show: the object and the one pixel that its blurred outline reaches."""
        return self.inside > -1.5
