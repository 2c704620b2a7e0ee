"""Focal loss for labels that are boxes."""

from typing import Any

import torch
from torch import Tensor

from mmdefect.functional.weak_box import BoxSchedule, weak_box_loss
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.models.losses.label_extras import LabelExtras
from mmdefect.registry import MODELS


@MODELS.register_module()
class WeakBoxLoss(DefectLoss):
    """Focal loss over the pixels of a box that look defective: :func:`mmdefect.functional.weak_box.weak_box_loss`.

    The number of iterations is kept in a buffer, so that a resumed run goes on with its threshold; it counts the calls
    in training mode, also those of accumulated gradients.

    Args:
        tau: threshold on the probability of any defect at the end.
        tau_start: threshold after the warm-up; ``None`` is ``tau``.
        warmup: iterations in which every pixel counts.
        ramp: iterations from ``tau_start`` to ``tau``.
        mixed: whether only the pixels of ``gt_box_map`` are boxes and other labels exact; otherwise every defect label
            is a box. Needs ``LabelExtrasHook``.
        **kwargs: ``gamma`` and ``alpha`` of the focal loss, and see :class:`DefectLoss`.
    """

    default_name = 'loss_weak_box'

    def __init__(
        self,
        tau: float = 0.1,
        tau_start: float | None = None,
        warmup: int = 0,
        ramp: int = 0,
        mixed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schedule, self.mixed = BoxSchedule(tau, tau_start, warmup, ramp), mixed
        self.register_buffer('iteration', torch.zeros((), dtype=torch.long))
        self._calls: int | None = None  # the buffer as a number: reading it from a GPU would stop it
        if mixed:
            self.label_extras: LabelExtras | None = None

    def compute(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """Call the function with the threshold of this iteration."""
        if self._calls is None:
            self._calls = int(self.iteration)
        loss = weak_box_loss(pred, target, tau=self.schedule.at(self._calls), boxes=self._boxes(target), **kwargs)
        if self.training:
            self._calls += 1
            self.iteration += 1
        return loss

    def _boxes(self, target: Tensor) -> Tensor | None:
        if not self.mixed:
            return None
        if self.label_extras is None:
            raise RuntimeError(
                'WeakBoxLoss with `mixed=True` must be told which labels are boxes, but nothing brings them; add '
                "dict(type='LabelExtrasHook') to `custom_hooks`."
            )
        boxes = self.label_extras.boxes
        return torch.zeros_like(target, dtype=torch.bool) if boxes is None else boxes

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._calls = None
