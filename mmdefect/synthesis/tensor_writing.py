"""Write one defect into an image with tensors, on any device; the route that the others are compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.array_writing import limit_source
from mmdefect.synthesis.blending import PoissonFactor, blend
from mmdefect.synthesis.blending.batch_membrane import limit_steps
from mmdefect.synthesis.canvas import ArrayCanvas, TensorCanvas
from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.pastes import Paste, limits_of, record_paste
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.types import Instance


def write_tensors(
    canvas: ArrayCanvas | TensorCanvas, paste: Paste, policy: PolicySpec, source_name: str
) -> Instance | None:
    """Write one drawn defect; ``None`` when too little of it can be seen, and then nothing is changed.

    Args:
        canvas: the image.
        paste: what is written.
        policy: limits of the blend, and the label rule.
        source_name: of the donor.
    """
    # The patch has a ring of one pixel around the defect; what leaves the frame was cut off the mask before.
    frame, part = overlap(paste.mask.shape, paste.corner, canvas.size_hw)
    target = canvas.read(frame)
    source = torch.as_tensor(paste.patch)[part].permute(2, 0, 1).contiguous()
    if target.shape[0] == 1:
        source = source.mean(0, keepdim=True)
    mask, core = (torch.from_numpy(array[part]).to(target.device) for array in (paste.mask, paste.core))
    source, factor, limited = source.to(target), None, 0.0
    if paste.blend.startswith('poisson'):
        factor = PoissonFactor(mask)
        source, limited = limit_on_device(target, source, factor, limits_of(policy))
    pixels = canvas.rounded(blend(target, source, mask[None], paste.blend, factor=factor))
    visible = _visible(target, pixels, mask, core, policy)
    if int(visible.sum()) < max(1, policy.min_visible * int((mask & core).sum())):
        return None
    canvas.write(frame, pixels, mask)
    canvas.write_label(frame, paste.class_id, visible)
    return record_paste(paste, frame, visible.cpu().numpy(), limited, source_name)


def _visible(target: Tensor, pixels: Tensor, mask: Tensor, core: Tensor, policy: PolicySpec) -> Tensor:
    """Return the pixels that get the label of the defect, ``(h, w)`` bool."""
    changed = ((pixels - target).abs().amax(0) > policy.tolerance) & mask
    if policy.label == 'visible' or policy.label_radius < 1:
        return changed
    size = 2 * policy.label_radius + 1
    near = torch.nn.functional.max_pool2d(changed[None, None].float(), size, 1, policy.label_radius)[0, 0] > 0
    return changed | (near & mask & core)


def limit_on_device(
    target: Tensor, source: Tensor, factor: PoissonFactor, limits: tuple[float, float]
) -> tuple[Tensor, float]:
    """Return the source with a limited step to the target beside the mask, and the share of limited pixels."""
    arrays: tuple[ndarray, ...] = tuple(
        np.ascontiguousarray(t.detach().cpu().numpy().transpose(1, 2, 0)) for t in (target, source)
    )
    limited, share = limit_source(*arrays, factor, limits)
    if not share:
        return source, share
    limited = torch.from_numpy(limited.transpose(2, 0, 1)).to(source)
    if (
        source.requires_grad or target.requires_grad
    ):  # ranges are learned through the pixels: same bits, with a derivative
        moved = _limited(target, source, torch.from_numpy(factor.places[1]).to(source.device), limits)
        limited = limited + (moved - moved.detach())
    return limited, share


def _limited(target: Tensor, source: Tensor, beside: Tensor, limits: tuple[float, float]) -> Tensor:
    """Return what :func:`~mmdefect.synthesis.array_writing.limit_source` does, as a function with a derivative."""
    given, rows = target.flatten(1)[:, beside], source.flatten(1)
    step, _ = limit_steps((given - rows[:, beside])[None], torch.tensor([len(beside)], device=source.device), *limits)
    return rows.index_copy(1, beside, given - step[0]).view_as(source)
