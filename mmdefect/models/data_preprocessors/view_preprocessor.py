"""Put the views of all images of a batch into one batch, and normalise it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement

from mmdefect.registry import MODELS


@MODELS.register_module()
class ViewDataPreProcessor(BaseDataPreprocessor):
    """Flatten ``(V, 3, h, w)`` uint8 RGB views of each image to one normalised batch, image by image.

    Args:
        mean: per channel, RGB, of pixels in 0..255.
        std: per channel.
    """

    def __init__(
        self, mean: Sequence[float] = (123.675, 116.28, 103.53), std: Sequence[float] = (58.395, 57.12, 57.375)
    ) -> None:
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``inputs`` ``(B V, 3, h, w)`` float32 and one sample with ``gt_label`` for each of them."""
        data = self.cast_data(data)
        inputs = torch.cat(list(data['inputs'])).float().sub_(self.mean).div_(self.std)
        samples = []
        for number, sample in enumerate(data['data_samples']):
            for label in sample.gt_label:
                element = BaseDataElement(gt_label=label)
                element.set_metainfo(dict(img_path=sample.metainfo.get('img_path'), image_index=number))
                samples.append(element)
        return dict(inputs=inputs, data_samples=samples)
