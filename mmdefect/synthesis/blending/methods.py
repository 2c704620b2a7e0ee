"""One entrance to every kind of composition, by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmdefect.synthesis.blending.alpha import alpha_blend, feathered_blend
from mmdefect.synthesis.blending.domain import PoissonFactor
from mmdefect.synthesis.blending.poisson import poisson_blend
from mmdefect.synthesis.blending.spectral import spectral_blend
from mmdefect.synthesis.types import BLENDS


def blend(
    target: Tensor,
    source: Tensor,
    mask: Tensor,
    method: str,
    *,
    factor: PoissonFactor | Sequence[PoissonFactor] | None = None,
    feather_width: float = 2.0,
) -> Tensor:
    """Compose a defect into a crop.

    Args:
        target: ``(C, h, w)`` or ``(B, C, h, w)`` float in [0, 1]; the crop with a ring of one pixel, except where the
            image ends.
        source: shape, dtype and range of ``target``.
        mask: ``(1, h, w)`` or ``(B, 1, h, w)``; bool or float in [0, 1].
        method: one of ``mmdefect.synthesis.types.BLENDS``.
        factor: what :func:`factorize` made of the mask; used by the Poisson methods only.
        feather_width: pixels of the soft rim; used by 'feather' only.

    Returns:
        Shape and dtype of ``target``, in [0, 1]; a new tensor. Outside the mask the bits of ``target``, except for
        'spectral', which works on the whole crop.

    Raises:
        ValueError: if ``method`` is unknown.
    """
    if method == 'alpha':
        return alpha_blend(target, source, mask)
    if method == 'feather':
        return feathered_blend(target, source, mask, feather_width)
    if method in ('poisson', 'poisson-mixed'):
        return poisson_blend(target, source, mask, factor, mixed=method == 'poisson-mixed')
    if method == 'spectral':
        return spectral_blend(target, source, mask)
    raise ValueError(f'`method` must be one of {", ".join(BLENDS)}, got {method!r}.')
