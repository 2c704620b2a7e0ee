"""An image and its label map that defects are written into, crop by crop, so that untouched pixels keep their bits."""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

Crop = tuple[slice, slice]


class TensorCanvas:
    """A float image on any device; the canvas works on copies.

    Args:
        image: ``(C, H, W)`` float in [0, 1], RGB.
        label: ``(H, W)`` int64.
    """

    def __init__(self, image: Tensor, label: Tensor) -> None:
        self.image, self.label = image.clone(), label.clone()
        self.size_hw = (image.shape[-2], image.shape[-1])

    def read(self, crop: Crop) -> Tensor:
        """Return a crop, ``(C, h, w)`` float in [0, 1], RGB."""
        return self.image[:, crop[0], crop[1]]

    def rounded(self, pixels: Tensor) -> Tensor:
        """Return the pixels as this canvas will store them."""
        return pixels

    def write(self, crop: Crop, pixels: Tensor, mask: Tensor) -> None:
        """Store the pixels of a crop where the mask is set, ``(h, w)`` bool."""
        part = self.image[:, crop[0], crop[1]]
        part.copy_(torch.where(mask, pixels, part))

    def write_label(self, crop: Crop, class_id: int, mask: Tensor) -> None:
        """Set the class where the mask is set; ignored pixels stay ignored."""
        part = self.label[crop]
        part[mask & (part != 255)] = class_id


class ArrayCanvas:
    """An 8-bit image as mmseg loads it, changed in place.

    Args:
        image: ``(H, W, 3)`` uint8 BGR, or ``(H, W)`` or ``(H, W, 1)`` grey.
        label: ``(H, W)`` uint8 or a wider integer type.

    Raises:
        ValueError: if the image is not of 8 bits.
    """

    def __init__(self, image: ndarray, label: ndarray) -> None:
        if image.dtype != np.uint8:
            raise ValueError(f'`image` must be uint8, got {image.dtype}; paste before the image is normalised.')
        self.image = image[..., None] if image.ndim == 2 else image
        self.label = label
        self.size_hw = image.shape[:2]

    def read(self, crop: Crop) -> Tensor:
        """Return a crop, ``(C, h, w)`` float32 in [0, 1], RGB."""
        part = np.ascontiguousarray(self.image[crop][..., ::-1].transpose(2, 0, 1))
        return torch.from_numpy(part).float().mul_(1 / 255)

    def rounded(self, pixels: Tensor) -> Tensor:
        """Return the pixels as this canvas will store them: in steps of 1/255."""
        return pixels.mul(255).round_().clamp_(0, 255).mul_(1 / 255)

    def write(self, crop: Crop, pixels: Tensor, mask: Tensor) -> None:
        """Store the pixels of a crop where the mask is set, ``(h, w)`` bool."""
        values = pixels.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy().transpose(1, 2, 0)[..., ::-1]
        np.copyto(self.image[crop], values, where=mask.numpy()[..., None])

    def write_label(self, crop: Crop, class_id: int, mask: Tensor) -> None:
        """Set the class where the mask is set; ignored pixels stay ignored."""
        part = self.label[crop]
        part[mask.numpy() & (part != 255)] = class_id
