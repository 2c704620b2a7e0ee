"""The head of a CutPaste network: a projection and a linear classifier, both thrown away after training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdefect.registry import MODELS


def pool(features: Tensor | Sequence) -> Tensor:
    """Return one vector an image, ``(B, C)``, of what a backbone puts out: its last map, tokens or vector."""
    while isinstance(features, (tuple, list)):
        features = features[-1]
    if features.ndim == 4:
        return features.mean((2, 3))
    if features.ndim == 3:
        return features.mean(1)
    if features.ndim == 2:
        return features
    raise ValueError(
        f'a backbone must put out maps (B, C, h, w), tokens (B, N, C) or vectors (B, C), got {tuple(features.shape)}.'
    )


@MODELS.register_module()
class ProjectionHead(BaseModule):
    """Linear, batch norm and ReLU for each width, then a linear classifier with cross-entropy.

    Args:
        in_channels: width of the pooled features; the classifier fills it in from its backbone.
        num_classes: views that are told apart.
        hidden: widths of the projection, ``[512] * n + [128]`` in the paper.
        init_cfg: see mmengine.
    """

    def __init__(
        self, in_channels: int, num_classes: int = 3, hidden: Sequence[int] = (512, 128), init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        width = in_channels
        for after in hidden:
            layers += [nn.Linear(width, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
            width = after
        self.projection = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor | Sequence) -> Tensor:
        """Return ``(B, num_classes)`` logits of what the backbone puts out."""
        return self.classifier(self.projection(pool(features)))

    def loss(self, features: Tensor | Sequence, data_samples: Sequence) -> dict[str, Tensor]:
        """Return the cross-entropy and the share of views told right, in percent.

        Raises:
            ValueError: if a view has a class that the head has not.
        """
        labels = torch.stack([sample.gt_label for sample in data_samples]).to(features[-1].device)
        if int(labels.max()) >= self.num_classes:
            raise ValueError(
                f'`num_classes` of the head must be more than every label of the views, got '
                f'{self.num_classes} and the label {int(labels.max())}; set `variant` at the top of the '
                'config, which sets both.'
            )
        logits = self(features)
        return dict(loss=F.cross_entropy(logits, labels), accuracy=100 * (logits.argmax(1) == labels).float().mean())

    def predict(self, features: Tensor | Sequence, data_samples: Sequence) -> Sequence:
        """Add ``pred_score`` ``(num_classes,)`` and ``pred_label`` to the samples."""
        for scores, sample in zip(self(features).softmax(1), data_samples, strict=True):
            sample.set_data(dict(pred_score=scores, pred_label=scores.argmax()))
        return data_samples
