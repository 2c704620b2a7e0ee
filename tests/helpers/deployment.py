"""A small checkpoint as ``tools/train.py`` leaves it, without the training: a random network with calibrated scores."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

LEAF = Path(__file__).resolve().parents[2] / 'configs' / 'fast_scnn' / 'fast-scnn_baseline_demo.py'
CLASSES, PALETTE = ('normal', 'attached', 'broken'), [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
OFFSETS = (0.0, 0.4, -0.7)


def write_checkpoint(
    path: Path, leaf: Path = LEAF, options: dict | None = None, seed: int = 0, calibrated: bool = True, **meta
) -> Path:
    """Write the checkpoint of a model with random weights whose labels are a mix of all classes; ``meta`` is added."""
    from mmdefect.apis import load_config
    from mmdefect.inference.checkpoint import build_segmentor

    cfg = load_config(leaf, options or {})
    torch.manual_seed(seed)
    model = build_segmentor(cfg)
    fill_memories(model, cfg.image_scale[::-1], seed)
    randomise(model, seed)
    record = dict(offsets=list(OFFSETS), classes=list(CLASSES), objective='IoU')
    meta |= dict(cfg=cfg.pretty_text, iter=7, dataset_meta=dict(classes=CLASSES, palette=PALETTE))
    torch.save(
        dict(state_dict=model.state_dict(), meta={**meta, **(dict(calibration=record) if calibrated else {})}), path
    )
    return path


def fill_memories(model: nn.Module, size_hw: tuple[int, int], seed: int = 0) -> None:
    """Fill the memories of what is normal from noise, if the model has such, and let them change the features."""
    from mmdefect.models.normality_neck import NormalityNeck, fill

    if isinstance(getattr(model, 'neck', None), NormalityNeck):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(5, 1, 3, *size_hw, generator=generator)
        with torch.no_grad():
            fill(model.neck, lambda: (list(model.backbone(image)) for image in images), len(images), 2000)
            for projection in model.neck.projections.values():
                projection[-1].weight.normal_(0, 0.2, generator=generator)


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Fill batch norms as a training would, and scale the scores so that their differences are a few units."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.7, 1.3, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
        noise = torch.randn(2, 3, 64, 64, generator=generator)
        conv = model.decode_head.conv_seg
        scores = model.encode_decode(noise, [dict(img_shape=noise.shape[2:])])
        factor = 2 / scores.std((0, 2, 3)).clamp(min=1e-6)
        conv.weight.mul_(factor.view(-1, 1, 1, 1))
        conv.bias.copy_((conv.bias - scores.mean((0, 2, 3))) * factor)


def make_images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return ``(count, height, width, 3)`` uint8 of coloured patches and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 12, 12, 3)).astype(np.uint8)
    large = np.stack([cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in coarse])
    return np.clip(large.astype(int) + rng.integers(-20, 21, large.shape), 0, 255).astype(np.uint8)


def write_exported(folder: Path) -> Path:
    """Write the exported file of a small checkpoint of 64 x 64 pixels, and the checkpoint beside it."""
    from mmdefect.deployment import load_predictor
    from mmdefect.inference.export import export_model

    checkpoint = write_checkpoint(folder / 'iter_7.pth', options=dict(crop_size=(64, 64), image_scale=(64, 64)))
    predictor = load_predictor(checkpoint)
    return export_model(predictor.network, predictor.info, folder / 'model.onnx')
