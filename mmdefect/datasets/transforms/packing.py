"""The last step of a pipeline: pack a sample with what stands beside its label, or the CutPaste views of an image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement, PixelData
from mmseg.datasets.transforms import PackSegInputs

from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.cutpaste import CutPasteRanges, class_names, make_views
from mmdefect.synthesis.streams import seed_of, stream_generator

#: Keys of the record that become meta information of the sample.
META_KEYS = ('sample_seed', 'draws', 'shows_defect', 'location_density', 'instances')
#: Maps that are packed, with their type; a transform that makes one also adds its name to ``seg_fields``.
MAPS = dict(gt_weight_map=np.float32, gt_box_map=np.uint8)


@TRANSFORMS.register_module()
class PackSynthesisInputs(PackSegInputs):
    """mmseg's ``PackSegInputs`` that also keeps the seed of the sample and its location codes.

    Added to the sample: ``location_map``, ``(1, H, W)`` float32 location codes, and :data:`META_KEYS` where present.
    """

    def transform(self, results: dict) -> dict:
        """Pack."""
        packed = super().transform(results)
        sample = packed['data_samples']
        if 'gt_location_map' in results:
            codes = torch.from_numpy(results['gt_location_map'].copy())[None]
            sample.set_data(dict(location_map=PixelData(data=codes)))
        sample.set_metainfo({k: results[k] for k in META_KEYS if k in results})
        return packed


@TRANSFORMS.register_module()
class PackDefectInputs(PackSynthesisInputs):
    """``PackSynthesisInputs`` with weights and box marks, for ``WeightedSampleLoss`` and ``WeakBoxLoss``.

    Optional keys: ``gt_weight_map`` ``(H, W)`` float, ``gt_box_map`` ``(H, W)`` 0 or 1, ``sample_weight`` a number.
    Their fields are those of :mod:`mmdefect.models.losses.label_extras`. Everything else is packed as by the base.
    """

    def transform(self, results: dict) -> dict:
        """Pack the sample.

        Raises:
            ValueError: if a map has another size than the label.
        """
        packed = super().transform(results)
        sample = packed['data_samples']
        for name, dtype in MAPS.items():
            if name not in results:
                continue
            values = np.ascontiguousarray(results[name], dtype)
            if values.shape != results['gt_seg_map'].shape[:2]:
                raise ValueError(
                    f'`{name}` must have the size of the label, {results["gt_seg_map"].shape[:2]}, got '
                    f"{values.shape}; add its name to results['seg_fields'] where it is made, so that "
                    'crops move it, too.'
                )
            sample.set_data({name: PixelData(data=torch.from_numpy(values)[None])})
        if 'sample_weight' in results:
            sample.set_metainfo(dict(sample_weight=float(results['sample_weight'])))
        return packed


@TRANSFORMS.register_module()
class PackCutPasteViews(BaseTransform):
    """CutPaste views of the image; the last step of a pipeline, after the resize: pastes are sized in network pixels.

    Required keys: ``img``, ``(H, W, 3)`` uint8 BGR; ``sample_seed`` of a numbered sample, else one comes from
    NumPy's global generator, or ``fixed_seed`` is used with the path of the image.

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
        planes, generator = torch.from_numpy(image).float().div_(255), self._generator(results)
        views = make_views(planes, generator, self.variant, self.patch, self.jitter, self.ranges)
        sample = BaseDataElement(gt_label=views.labels)
        sample.set_metainfo(dict(img_path=results.get('img_path'), crop_top_left=views.crop_top_left))
        return dict(inputs=views.images.mul(255).round_().to(torch.uint8), data_samples=sample)

    def _generator(self, results: dict) -> torch.Generator:
        if self.fixed_seed is not None:
            return stream_generator(self.fixed_seed, str(results['img_path']).replace('\\', '/').rsplit('/', 1)[-1])
        return stream_generator(seed_of(results), type(self).__name__, self.stream)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(variant={self.variant!r}, patch={self.patch}, jitter={self.jitter})'
