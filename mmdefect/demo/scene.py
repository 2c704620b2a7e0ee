"""What a scene is made of, and how it becomes an image: shading in slope space, optics, sensor, tone curve.

The reflection model is the usual one for looking straight down: Lambert's law for the diffuse part and a Gaussian
lobe in slope space (Ward's model at normal view) for the glare, with different widths along and across the grain.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.noise import unit_grid, white_noise

#: Levels of the sensor's converter; the tone curve is a table over them.
ADC_LEVELS = 4096


@dataclass(frozen=True)
class Surface:
    """Geometry and material of everything the camera sees; a defect turns one surface into another."""

    height: ndarray  # (H, W) float32, elevation in pixels; only its slope matters
    albedo: ndarray  # (H, W, 3) float32 linear reflectance in [0, 1], RGB
    gloss: ndarray  # (H, W) float32 strength of the mirror-like reflection, >= 0
    cover: ndarray  # (H, W) float32 in [0, 1], how much of the pixel the object covers; 1 everywhere for a texture

    def copy(self) -> Surface:
        """Return a copy whose arrays may be edited in place."""
        return Surface(self.height.copy(), self.albedo.copy(), self.gloss.copy(), self.cover.copy())


@dataclass(frozen=True)
class Light:
    """A distant lamp."""

    direction: tuple[float, float, float]  # unit vector x, y, z towards the lamp; z points to the camera
    power: float  # diffuse strength
    glare: float  # strength of its mirror image on a surface with gloss one


@dataclass(frozen=True)
class Camera:
    """Exposure, optics and sensor."""

    field: ndarray  # (H, W) float32, brightness of the illumination times vignetting
    blur_sigma: float  # point spread of the optics in pixels
    noise: ndarray  # (H, W, 3) float32 standard normal; the same array in both renders of a pair
    read_noise: float = 0.0016  # deviation at black, in units of full scale
    shot_noise: float = 0.00008  # variance per unit of signal

    @classmethod
    def sample(cls, rng: Generator, field: ndarray, blur_range: tuple[float, float]) -> Camera:
        """Return a camera with a blur from the range and fresh noise, over ``(H, W)`` illumination."""
        blur = float(rng.uniform(*blur_range))
        return cls(field.astype(np.float32), blur, np.stack([white_noise(rng, field.shape) for _ in range(3)], axis=-1))


@dataclass(frozen=True)
class Material:
    """The colours that a defect brings to light, all linear RGB."""

    fresh: tuple[float, float, float]  # what a scratch or a fracture exposes
    backing: tuple[float, float, float]  # what lies under a hole
    particle: tuple[tuple[float, float, float], ...]  # colours of attached particles
    stain: tuple[tuple[float, float, float], ...]  # factors by which stains multiply the albedo
    grain_angle: float = 0.0  # direction of threads or grinding lines in radians
    pitch: float = 0.0  # distance between threads in pixels; 0 where there are none


@dataclass(frozen=True)
class Scene:
    """Everything needed to take the image, with or without defects."""

    surface: Surface  # the intact one
    backdrop: ndarray  # (H, W, 3) float32 linear, what is seen where the object is not, its shadow included
    inside: ndarray  # (H, W) float32, distance to the outline of the object in pixels, positive on it
    lights: tuple[Light, ...]
    ambient: float  # light from everywhere
    lobe: tuple[float, float]  # width of the glare along x and y, as slopes
    bend: float  # how fast the mirror direction changes across the image (a near lamp)
    cavity: float  # how strongly low places are darkened
    camera: Camera
    material: Material
    # (N, 2) float32 x, y of the object's corners in pixels, sharpest first; empty for textures
    corners: ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    @classmethod
    def of_texture(cls, surface: Surface, **settings) -> Scene:
        """Return a scene that the surface fills: no backdrop and no outline."""
        size_hw = surface.height.shape
        return cls(surface, np.zeros((*size_hw, 3), np.float32), np.full(size_hw, 1e4, np.float32), **settings)

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


def render(scene: Scene, surface: Surface | None = None) -> ndarray:
    """Take the image of a scene: ``(H, W, 3)`` uint8 RGB; by default of its intact surface."""
    surface = scene.surface if surface is None else surface
    cover = surface.cover[..., None]
    return expose(shade(surface, scene) * cover + scene.backdrop * (1.0 - cover), scene.camera)


def shade(surface: Surface, scene: Scene) -> ndarray:
    """Return the light that the surface sends to the camera: ``(H, W, 3)`` float32 linear, >= 0."""
    slope_x = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REFLECT)
    slope_y = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REFLECT)
    inverse_norm = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    y, x = unit_grid(scene.size_hw)
    mirror_x, mirror_y = slope_x + scene.bend * x, slope_y + scene.bend * y
    diffuse = np.full(scene.size_hw, scene.ambient, np.float32)
    if scene.cavity:  # places lower than their surroundings are darker
        reach = max(3, round(5 * scene.unit) | 1)
        around = cv2.blur(cv2.blur(surface.height, (reach, reach)), (reach, reach))
        diffuse *= np.clip(1.0 - scene.cavity * (around - surface.height) / reach, 0.25, 1.15)
    glare = np.zeros(scene.size_hw, np.float32)
    for light in scene.lights:
        lx, ly, lz = light.direction
        facing = (lz - lx * slope_x - ly * slope_y) * inverse_norm
        diffuse += light.power * np.maximum(facing, 0.0)
        # The slope whose normal halves the angle between the lamp and the camera.
        half_x, half_y = -lx / (1.0 + lz), -ly / (1.0 + lz)
        miss = ((mirror_x - half_x) / scene.lobe[0]) ** 2 + ((mirror_y - half_y) / scene.lobe[1]) ** 2
        glare += light.glare * np.exp(-miss)
    return surface.albedo * diffuse[..., None] + (glare * surface.gloss)[..., None]


def expose(light: ndarray, camera: Camera) -> ndarray:
    """Return the image that the camera stores of ``(H, W, 3)`` float32 linear light: ``(H, W, 3)`` uint8 RGB."""
    signal = cv2.GaussianBlur(light * camera.field[..., None], (0, 0), camera.blur_sigma)
    signal += np.sqrt(camera.read_noise**2 + camera.shot_noise * np.maximum(signal, 0.0)) * camera.noise
    counts = np.clip(signal * ADC_LEVELS, 0, ADC_LEVELS - 1).astype(np.int16)
    return tone_table()[counts]


@functools.cache
def tone_table() -> ndarray:
    """Return the camera's tone curve: ``(4096,)`` uint8, gamma 2.2 with a linear toe."""
    linear = np.linspace(0.0, 1.0, ADC_LEVELS)
    curve = np.where(linear < 0.018, 4.5 * linear, 1.099 * linear**0.45 - 0.099)
    return np.round(curve * 255.0).astype(np.uint8)
