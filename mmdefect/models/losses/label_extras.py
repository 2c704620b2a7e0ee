"""Carry what the pipeline says beside the label to the losses: weights, and which labels are only boxes.

A head of mmseg calls its losses with logits and label, and a weight only from its own pixel sampler; the data samples
never get there. So the model's data preprocessor is watched: each batch that leaves it puts its extras into one
:class:`LabelExtras`, and every loss of the model that asks for them holds that same object. No head needs to change,
and whatever prepares the batch (pipeline, batch synthesis) only has to fill the fields of the data sample:

====================  ======================================================================================
``gt_weight_map``     ``PixelData``, ``(1, H, W)`` float: weight of each pixel
``gt_box_map``        ``PixelData``, ``(1, H, W)`` integer: 1 where the label is a box around the defect
``sample_weight``     number in the meta information: weight of the whole sample
====================  ======================================================================================

Samples without a field count as weight 1 and as exact labels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelExtras:
    """Extras of the batch that is being trained on."""

    weight: Tensor | None = None  # (B, H, W) float, or (B, 1, 1) without weights of pixels; None when all are 1
    boxes: Tensor | None = None  # (B, H, W) bool; None when no sample has any

    def read(self, data_samples: Sequence | None) -> None:
        """Take the extras of a batch."""
        self.weight = self.boxes = None
        samples = [s for s in data_samples or () if 'gt_sem_seg' in s]
        if not samples:
            return
        boxes, self.weight = _stack(samples, 'gt_box_map', 0), _stack(samples, 'gt_weight_map', 1)
        self.boxes = None if boxes is None else boxes.bool()
        if any('sample_weight' in s for s in samples):
            values = [float(s.get('sample_weight', 1.0)) for s in samples]
            values = torch.as_tensor(values, device=samples[0].gt_sem_seg.data.device).view(-1, 1, 1)
            self.weight = values if self.weight is None else self.weight * values


def attach_label_extras(model: nn.Module) -> LabelExtras | None:
    """Let the losses of a segmentor see the extras of each batch; attaching twice changes nothing.

    Returns what the losses share; ``None`` when no loss asks for it.
    """
    losses = [m for m in model.modules() if hasattr(m, 'label_extras')]
    if not losses:
        return None
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(preprocessor, nn.Module):
        raise ValueError(
            f'{type(model).__name__} must have a `data_preprocessor`, which brings the weights of the samples to the '
            'loss; build it from a config of mmseg.'
        )
    extras = next((m.label_extras for m in losses if m.label_extras is not None), None)
    if extras is None:
        extras = LabelExtras()
        preprocessor.register_forward_hook(lambda module, args, output: extras.read(output.get('data_samples')))
    for loss in losses:
        loss.label_extras = extras
    return extras


def _stack(samples: Sequence, name: str, fill: float) -> Tensor | None:
    """Stack a map of every sample at the size of its padded label; ``None`` when no sample has it."""
    if not any(name in s for s in samples):
        return None
    maps = []
    for sample in samples:
        label = sample.gt_sem_seg.data
        if name not in sample:
            maps.append(torch.full(label.shape[-2:], fill, dtype=torch.float32, device=label.device))
            continue
        values = sample.get(name).data
        values = values.reshape(values.shape[-2:]).to(label.device, torch.float32)
        missing = [label.shape[-1] - values.shape[-1], label.shape[-2] - values.shape[-2]]
        if min(missing) < 0:
            raise ValueError(
                f'`{name}` must be no larger than the label, got {tuple(values.shape)} for a label of '
                f'{tuple(label.shape[-2:])}; put its name into `seg_fields`, so that crops include it.'
            )
        maps.append(F.pad(values, (0, missing[0], 0, missing[1]), value=fill))
    return torch.stack(maps)
