"""Pack a sample with what stands beside its label."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.structures import PixelData

from mmdefect.datasets.transforms.packing import PackSynthesisInputs
from mmdefect.registry import TRANSFORMS

#: Maps that are packed, with their type; a transform that makes one also adds its name to ``seg_fields``.
MAPS = dict(gt_weight_map=np.float32, gt_box_map=np.uint8)


@TRANSFORMS.register_module()
class PackDefectInputs(PackSynthesisInputs):
    """``PackSynthesisInputs`` with weights and box marks, for ``WeightedSampleLoss`` and ``WeakBoxLoss``.

    Optional keys: ``gt_weight_map`` ``(H, W)`` float, ``gt_box_map`` ``(H, W)`` 0 or 1, ``sample_weight`` a number. Their
    fields are those of :mod:`mmdefect.models.losses.label_extras`. Everything else is packed as by the base.
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
