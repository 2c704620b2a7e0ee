"""What textual inversion sees in each step: support images, flipped at random, in sentences; a function of the seed.

Nothing here has a state: the batch of step 700 is the same whether the run was interrupted or not, and each process of
a group draws its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.diffusion.prompts import draw_text
from mmdefect.synthesis.streams import stream_generator


@dataclass(frozen=True)
class InversionBatch:
    """One batch.

    Attributes:
        images: ``(B, 3, H, W)`` float32 in [0, 1], RGB.
        masks: ``(B, 1, H, W)`` bool.
        texts: one for each image.
        steps: ``(B,)`` int64 training steps.
        noise: ``(B, C, h, w)`` float32.
    """

    images: Tensor
    masks: Tensor
    texts: list[str]
    steps: Tensor
    noise: Tensor


class SupportImages:
    """Support images of one type at the size that is computed.

    Args:
        shots: images ``(H, W, 3)`` uint8 RGB and masks ``(H, W)`` bool.
        size_hw: size they are brought to.
        templates: sentences with ``{}``.
        token: name of the token.
        flip: whether they are mirrored at random.
    """

    def __init__(
        self,
        shots: Sequence[tuple[ndarray, ndarray]],
        size_hw: tuple[int, int],
        templates: Sequence[str],
        token: str,
        flip: bool = True,
    ) -> None:
        self.images = torch.stack([image_tensor(image, size_hw) for image, _ in shots])
        self.masks = torch.stack([mask_tensor(mask, size_hw) for _, mask in shots])
        self.templates, self.token, self.flip = templates, token, flip

    def draw(
        self, seed: int, number: int, batch_size: int, latent_chw: tuple[int, int, int], num_steps: int
    ) -> InversionBatch:
        """Draw a batch.

        Args:
            seed: of the run.
            number: of the batch; each process and each accumulated part has its own.
            batch_size: images.
            latent_chw: shape of a latent.
            num_steps: training steps of the noise schedule.
        """
        generator = stream_generator(seed, 'inversion', number)
        index = torch.randint(len(self.images), (batch_size,), generator=generator)
        images, masks = self.images[index].clone(), self.masks[index].clone()
        flips = torch.rand(batch_size, generator=generator) < 0.5
        if self.flip:
            images[flips], masks[flips] = images[flips].flip(-1), masks[flips].flip(-1)
        texts = [draw_text(self.templates, self.token, generator) for _ in range(batch_size)]
        steps = torch.randint(num_steps, (batch_size,), generator=generator)
        return InversionBatch(images, masks, texts, steps, torch.randn(batch_size, *latent_chw, generator=generator))


def image_tensor(image: ndarray, size_hw: tuple[int, int]) -> Tensor:
    """Return an image, ``(H, W, 3)`` uint8 RGB, as ``(3, h, w)`` float32 in [0, 1]."""
    if image.shape[:2] != tuple(size_hw):
        smaller = image.shape[0] > size_hw[0]
        image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def mask_tensor(mask: ndarray, size_hw: tuple[int, int]) -> Tensor:
    """Return a mask, ``(H, W)`` bool, as ``(1, h, w)`` bool; shrinking never empties it."""
    if mask.shape != tuple(size_hw):
        shrunk = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(mask)[None, None].float(), size_hw)
        return shrunk[0] > 0
    return torch.from_numpy(mask.copy())[None]
