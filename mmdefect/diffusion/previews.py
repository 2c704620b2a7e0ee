"""See during learning what a token generates: support images with their masks filled again, beside the originals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mmdefect.diffusion.blended import BlendSettings, generate, paste_back, to_uint8
from mmdefect.diffusion.images import write_image
from mmdefect.diffusion.inversion_data import SupportImages
from mmdefect.diffusion.latent_model import LatentModel
from mmdefect.diffusion.tokens import TokenBank
from mmdefect.synthesis.streams import stream_generator

#: Support images on a sheet.
_COLUMNS = 4


def write_preview(
    path: Path, model: LatentModel, bank: TokenBank, data: SupportImages, seed: int, settings: BlendSettings
) -> None:
    """Write a sheet: above the support images, below them what is generated in their masks.

    Args:
        path: PNG file.
        model: pipeline.
        bank: the token of ``data``.
        data: support images.
        seed: the same one gives the same noise at every step, so that sheets can be compared.
        settings: how images are generated.
    """
    images, masks = data.images[:_COLUMNS], data.masks[:_COLUMNS]
    text = f'a photo of {data.token}'
    generators = [stream_generator(seed, 'preview', number) for number in range(len(images))]
    with torch.no_grad():
        condition = model.encode_text([text] * len(images), bank)
        empty = model.encode_unconditional([''] * len(images))
        made = to_uint8(generate(model, images, masks, condition, empty, generators, settings))
    originals = to_uint8(images)
    pasted = [paste_back(o, m, mask[0].numpy()) for o, m, mask in zip(originals, made, masks, strict=True)]
    write_image(path, np.concatenate([np.concatenate(list(originals), 1), np.concatenate(pasted, 1)]))
