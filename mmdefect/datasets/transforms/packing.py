"""Pack what the device-side synthesis must know of a sample."""

from __future__ import annotations

import torch
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs

from mmdefect.registry import TRANSFORMS

#: Keys of the record that become meta information of the sample.
META_KEYS = ('sample_seed', 'draws', 'shows_defect', 'location_density', 'instances')


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
