"""Test-time augmentation whose averaged scores go on to the metrics."""

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.utils import SampleList

from mmdefect.functional.calibration import decide
from mmdefect.registry import MODELS


@MODELS.register_module()
class DefectTTAModel(SegTTAModel):
    """Average the probabilities of all views; ``seg_logits`` of the result holds the average.

    mmseg's own class decides by the average, too, but leaves the logits of the last view in the result, and with them
    every metric that reads scores would judge that view alone. Evaluate with ``DefectMetric(scores='probabilities')``.
    """

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        """Merge the views of every image into one prediction."""
        merged = []
        for views in data_samples_list:
            # mmseg has applied the sigmoid of a single channel already
            scores = [view.seg_logits.data for view in views]
            mean = torch.stack([s.softmax(0) if len(s) > 1 else s for s in scores]).mean(0)
            if len(mean) > 1:
                chosen = decide(mean, torch.zeros(len(mean))).long()[None]
            else:
                chosen = (mean > self.module.decode_head.threshold).to(mean)
            sample = views[0].new()
            sample.set_metainfo(views[0].metainfo)
            if 'gt_sem_seg' in views[0]:
                sample.gt_sem_seg = views[0].gt_sem_seg
            sample.seg_logits, sample.pred_sem_seg = PixelData(data=mean), PixelData(data=chosen)
            merged.append(sample)
        return merged
