"""mmpretrain's image classifier whose head takes the width of the backbone, whatever backbone it is.

Named in ``custom_imports`` of the CutPaste configs and not imported with the other models: mmpretrain is needed here
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmpretrain.models import ImageClassifier
from torch import nn

from mmdefect.models.projection_head import pool
from mmdefect.registry import MODELS

#: Short names; any class of mmpretrain's backbones and any model of timm (as ``timm/<name>``) goes, too.
BACKBONES = {
    'resnet18': dict(type='mmpretrain.ResNet', depth=18),
    'resnet34': dict(type='mmpretrain.ResNet', depth=34),
    'resnet50': dict(type='mmpretrain.ResNet', depth=50),
    'mobilenet_v2': dict(type='mmpretrain.MobileNetV2'),
    'mobilenet_v3_large': dict(type='mmpretrain.MobileNetV3', arch='large'),
    **{f'efficientnet_b{k}': dict(type='mmpretrain.EfficientNet', arch=f'b{k}') for k in range(9)},
    'convnext_tiny': dict(type='mmpretrain.ConvNeXt', arch='tiny'),
}


def backbone_config(backbone: str | Mapping) -> dict:
    """Return the config of a backbone by name: ``resnet18``, ``timm/regnety_002`` or a class such as ``ConvNeXt``.

    Raises:
        ValueError: if the name is unknown; the message lists the short names.
    """
    if not isinstance(backbone, str):
        return dict(backbone)
    if backbone in BACKBONES:
        return dict(BACKBONES[backbone])
    if backbone.startswith('timm/'):
        return dict(type='mmpretrain.TIMMBackbone', model_name=backbone[len('timm/') :])
    if MODELS.get(f'mmpretrain.{backbone}') is not None:
        return dict(type=f'mmpretrain.{backbone}')
    raise ValueError(
        f'`backbone` must be one of {", ".join(BACKBONES)}, timm/<model>, or the name of a backbone class of '
        f'mmpretrain, got {backbone!r}.'
    )


def feature_width(backbone: nn.Module, side: int = 64) -> int:
    """Return the width of the pooled features of a backbone, found with one small image."""
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        width = pool(backbone(torch.zeros(1, 3, side, side))).shape[1]
    backbone.train(training)
    return width


@MODELS.register_module()
class CutPasteClassifier(ImageClassifier):
    """Tells untouched images from pasted ones.

    Args:
        backbone: config of a backbone, or its name, see :func:`backbone_config`.
        head: config of a head; ``in_channels`` follows the backbone.
        data_preprocessor: config of ours: mmpretrain would hand batch augmentations to one of its own.
        **kwargs: arguments of mmpretrain's ``ImageClassifier``.
    """

    def __init__(
        self, backbone: str | Mapping, head: Mapping, data_preprocessor: Mapping | None = None, **kwargs
    ) -> None:
        built = MODELS.build(backbone_config(backbone))
        super().__init__(
            backbone=built,
            head=dict(head, in_channels=feature_width(built)),
            data_preprocessor=MODELS.build(dict(data_preprocessor or dict(type='ViewDataPreProcessor'))),
            **kwargs,
        )
