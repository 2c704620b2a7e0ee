"""Make the views of one good image and pack them as one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement

from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.cutpaste import CutPasteRanges, class_names, make_views
from mmdefect.synthesis.streams import stream_generator


@TRANSFORMS.register_module()
class PackCutPasteViews(BaseTransform):
    """CutPaste views of the image; the last step of a pipeline, after the resize: pastes are sized in network pixels.

    Required keys: ``img``, ``(H, W, 3)`` uint8 BGR; ``sample_seed`` from a numbered draw, else one is drawn from NumPy's
    global generator, or ``fixed_seed`` is used with the path of the image.

    Returns ``inputs``, ``(V, 3, h, w)`` uint8 RGB, and ``data_samples`` with ``gt_label`` ``(V,)`` int64 and the meta
    information ``img_path`` and ``crop_top_left``.

    Args:
        variant: ``'normal'``, ``'scar'``, ``'union'`` or ``'3way'``.
        patch: side of a crop that all views show, or None for the whole image.
        jitter: colour jitter of the image before any paste.
        ranges: settings of :class:`~mmdefect.synthesis.cutpaste.CutPasteRanges`.
        fixed_seed: makes the views of an image the same in every pass: for validation.
        stream: separates several of these.
    """

    def __init__(
        self,
        variant: str = '3way',
        patch: int | None = None,
        jitter: float = 0.1,
        ranges: Mapping[str, Any] | None = None,
        fixed_seed: int | None = None,
        stream: int = 0,
    ) -> None:
        class_names(variant)
        self.variant, self.patch, self.jitter, self.stream = variant, patch, jitter, stream
        self.ranges, self.fixed_seed = CutPasteRanges(**(ranges or {})), fixed_seed

    def transform(self, results: dict) -> dict:
        """Make the views."""
        image = np.ascontiguousarray(results['img'][..., ::-1].transpose(2, 0, 1))
        views = make_views(
            torch.from_numpy(image).float().div_(255),
            self._generator(results),
            self.variant,
            self.patch,
            self.jitter,
            self.ranges,
        )
        sample = BaseDataElement(gt_label=views.labels)
        sample.set_metainfo(dict(img_path=results.get('img_path'), crop_top_left=views.crop_top_left))
        return dict(inputs=views.images.mul(255).round_().to(torch.uint8), data_samples=sample)

    def _generator(self, results: dict) -> torch.Generator:
        if self.fixed_seed is not None:
            return stream_generator(self.fixed_seed, str(results['img_path']).replace('\\', '/').rsplit('/', 1)[-1])
        seed = results['sample_seed'] if 'sample_seed' in results else int(np.random.randint(0, 2**31))
        return stream_generator(seed, type(self).__name__, self.stream)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(variant={self.variant!r}, patch={self.patch}, jitter={self.jitter})'
