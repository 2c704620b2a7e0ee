"""From a surface to an image: shading in slope space, compositing, optics, sensor, tone curve.

The reflection model is the usual one for looking straight down: Lambert's law for the diffuse part and a Gaussian
lobe in slope space (Ward's model at normal view) for the glare, with different widths along and across the grain.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.demo.noise import unit_grid
from mmdefect.demo.types import Camera, Scene, Surface

#: Levels of the sensor's converter; the tone curve is a table over them.
ADC_LEVELS = 4096


@functools.cache
def tone_table() -> ndarray:
    """Return the camera's tone curve: ``(4096,)`` uint8, gamma 2.2 with a linear toe."""
    linear = np.linspace(0.0, 1.0, ADC_LEVELS)
    curve = np.where(linear < 0.018, 4.5 * linear, 1.099 * linear**0.45 - 0.099)
    return np.round(curve * 255.0).astype(np.uint8)


def shade(surface: Surface, scene: Scene) -> ndarray:
    """Return the light that the surface sends to the camera: ``(H, W, 3)`` float32 linear, >= 0."""
    slope_x = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REFLECT)
    slope_y = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REFLECT)
    inverse_norm = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    y, x = unit_grid(scene.size_hw)
    mirror_x, mirror_y = slope_x + scene.bend * x, slope_y + scene.bend * y
    diffuse = np.full(scene.size_hw, scene.ambient, np.float32)
    if scene.cavity:
        diffuse *= _cavity(surface.height, scene)
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


def _cavity(height: ndarray, scene: Scene) -> ndarray:
    """Return a factor that darkens places lower than their surroundings, ``(H, W)`` float32 in [0.25, 1.15]."""
    reach = max(3, int(round(5 * scene.unit)) | 1)
    around = cv2.blur(cv2.blur(height, (reach, reach)), (reach, reach))
    return np.clip(1.0 - scene.cavity * (around - height) / reach, 0.25, 1.15)


def expose(light: ndarray, camera: Camera) -> ndarray:
    """Return the image the camera stores: ``(H, W, 3)`` uint8 RGB.

    Args:
        light: ``(H, W, 3)`` float32 linear, as :func:`shade` returns it, backdrop included.
    """
    signal = cv2.GaussianBlur(light * camera.field[..., None], (0, 0), camera.blur_sigma)
    signal += np.sqrt(camera.read_noise**2 + camera.shot_noise * np.maximum(signal, 0.0)) * camera.noise
    counts = np.clip(signal * ADC_LEVELS, 0, ADC_LEVELS - 1).astype(np.int16)
    return tone_table()[counts]


def render(scene: Scene, surface: Surface | None = None) -> ndarray:
    """Take the image of a scene: ``(H, W, 3)`` uint8 RGB.

    Args:
        surface: the surface to look at; the intact one of the scene by default.
    """
    surface = scene.surface if surface is None else surface
    cover = surface.cover[..., None]
    return expose(shade(surface, scene) * cover + scene.backdrop * (1.0 - cover), scene.camera)
