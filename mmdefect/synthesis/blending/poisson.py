"""Poisson composition: import the gradients of a defect instead of its colours (Perez et al., SIGGRAPH 2003).

``domain='mask'`` solves on exactly the mask pixels, everything else stays bit-identical. ``domain='rectangle'`` solves
on the whole crop and mixes the gradients by a soft mask; then the mask has a derivative too. Derivatives come from the
adjoint equation: one more solve with the same symmetric factor. ``docs/derivations/poisson.md`` has the equations; the
names there are T target, S source, m mask, D = T - S, w the unknown, A the Laplacian.

Not covered: textureless clamps such as OpenCV's colour change or flattening.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdefect.synthesis.blending.domain import PoissonFactor
from mmdefect.synthesis.blending.sine import CLOSED, rectangle_solver

DOMAINS = ('mask', 'rectangle')


def poisson_blend(
    target: Tensor,
    source: Tensor,
    mask: Tensor,
    factor: PoissonFactor | Sequence[PoissonFactor] | None = None,
    mixed: bool = False,
    domain: str = 'mask',
    edges: tuple[bool, bool, bool, bool] = CLOSED,
    clamp: bool = True,
) -> Tensor:
    """Continue ``target`` into the mask with the gradients of ``source``.

    Args:
        target: ``(C, h, w)`` or ``(B, C, h, w)`` float in [0, 1]; the crop around the defect with a ring of at least
            one pixel, except where the image ends.
        source: shape, dtype and range of ``target``; read inside the mask and one pixel around it.
        mask: ``(1, h, w)`` or ``(B, 1, h, w)``; bool or float in [0, 1]. A single mask may serve a batch.
        factor: what :func:`factorize` made of the mask, or one per sample; spares the factorisation. Only for
            ``domain='mask'``.
        mixed: keep, for every pair of neighbours and every channel, the stronger of both gradients. The choice is held
            fixed in the derivative, which makes it a sub-gradient.
        domain: 'mask' solves on the pixels with mask >= 0.5; mask pixels on the edge of the crop are taken to lie on
            the edge of the image. The mask gets no gradient, for the result does not move with it. 'rectangle' solves
            on the crop without its ring, with the gradient of ``source`` weighted by the mean mask of each pair of
            neighbours; every pixel of the crop may change, and the mask has a derivative.
        edges: top, left, bottom, right; only for ``domain='rectangle'``: True for sides on the image edge, which
            have no ring.
        clamp: limit the result to [0, 1]; a limited value passes no gradient.

    Returns:
        Shape and dtype of ``target``; a new tensor. Outside the domain the bits of ``target``; an empty mask returns
        ``target`` unchanged.

    Raises:
        ValueError: if shapes do not match, the factor is not one of this crop, or no pixel is left free.
    """
    _check(target, source, mask, domain)
    if domain == 'rectangle':
        if factor is not None:
            raise ValueError(
                "`factor` must be None for domain='rectangle', which needs none. Leave it out, or use domain='mask'."
            )
        return _blend_rectangle(target, source, mask, mixed, tuple(edges), clamp)
    blend = _blend_mixed if mixed else _blend_import
    if target.dim() == 3:
        factor = factor[0] if isinstance(factor, Sequence) else factor
        return blend(target, source, _check_factor(factor, mask, target), clamp)
    shared = mask if mask.dim() == 3 else mask[0] if len(mask) == 1 else None
    if isinstance(factor, PoissonFactor) or (factor is None and shared is not None):
        return blend(target, source, _check_factor(factor, shared, target), clamp)
    factors = [None] * len(target) if factor is None else factor
    if len(factors) != len(target):
        raise ValueError(f'`factor` must hold one factor per sample, got {len(factors)} for {len(target)} samples.')
    return torch.stack(
        [
            blend(one_target, one_source, _check_factor(one_factor, one_mask, target), clamp)
            for one_target, one_source, one_mask, one_factor in zip(
                target, source, mask.expand(len(target), -1, -1, -1), factors, strict=True
            )
        ]
    )


def _check(target: Tensor, source: Tensor, mask: Tensor, domain: str) -> None:
    if domain not in DOMAINS:
        raise ValueError(f'`domain` must be one of {", ".join(DOMAINS)}, got {domain!r}.')
    if target.dim() not in (3, 4) or source.shape != target.shape or not target.is_floating_point():
        raise ValueError(
            '`target` and `source` must be float tensors of one shape (C, h, w) or (B, C, h, w), got '
            f'{tuple(target.shape)} {target.dtype} and {tuple(source.shape)} {source.dtype}. '
            'Divide uint8 images by 255.'
        )
    fits = (
        mask.dim() in (3, target.dim())
        and mask.shape[-3] == 1
        and mask.shape[-2:] == target.shape[-2:]
        and (mask.dim() == 3 or len(mask) in (1, len(target)))
    )
    if not fits:
        raise ValueError(
            f'`mask` must have shape (1, h, w) or (B, 1, h, w) with the h, w and B of `target` '
            f'{tuple(target.shape)}, got {tuple(mask.shape)}.'
        )


def _check_factor(factor: PoissonFactor | None, mask: Tensor | None, target: Tensor) -> PoissonFactor:
    if factor is None:
        return PoissonFactor(mask)
    if factor.shape != tuple(target.shape[-2:]):
        raise ValueError(
            f'`factor` must be made for crops of {tuple(target.shape[-2:])} pixels, got one for '
            f'{factor.shape}. Cut the crop to the size of the mask of the factor.'
        )
    return factor


def _import_gradients(target: Tensor, source: Tensor, factor: PoissonFactor) -> Tensor:
    """``(N, n)`` new values of the mask pixels, N being channels times samples: S plus the membrane of D."""
    inside, beside = factor.indices(target.device)
    rows = target.reshape(-1, target.shape[-2] * target.shape[-1])
    source_rows = source.reshape(rows.shape)
    membrane = factor.solver.extend(rows.index_select(1, beside).sub_(source_rows.index_select(1, beside)))
    return membrane.add_(source_rows.index_select(1, inside))


def _insert(target: Tensor, pasted: Tensor, factor: PoissonFactor, clamp: bool) -> Tensor:
    """A copy of ``target`` with ``pasted`` on the mask pixels; limits ``pasted`` in place."""
    result = target.clone(memory_format=torch.contiguous_format)
    rows = result.view(len(pasted), -1)
    rows.index_copy_(1, factor.indices(target.device)[0], pasted.clamp_(0, 1) if clamp else pasted)
    return result


class _ImportGradients(torch.autograd.Function):
    """Paste on the exact domain; the only non-zero right-hand side is D on the boundary."""

    @staticmethod
    def forward(ctx, target: Tensor, source: Tensor, factor: PoissonFactor, clamp: bool) -> Tensor:
        pasted = _import_gradients(target, source, factor)
        ctx.factor, ctx.limited = factor, (pasted < 0) | (pasted > 1) if clamp else None
        return _insert(target, pasted, factor, clamp)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        inside, beside = ctx.factor.indices(gradient.device)
        rows = gradient.reshape(-1, gradient.shape[-2] * gradient.shape[-1])
        inner = rows.index_select(1, inside)
        if ctx.limited is not None:
            inner.masked_fill_(ctx.limited, 0)
        outer = ctx.factor.solver.extend_adjoint(inner)
        to_target = to_source = None
        if ctx.needs_input_grad[0]:
            to_target = rows.clone().index_fill_(1, inside, 0)
            to_target = to_target.index_add_(1, beside, outer).view(gradient.shape)
        if ctx.needs_input_grad[1]:
            to_source = torch.zeros_like(rows).index_copy_(1, inside, inner)
            to_source = to_source.index_copy_(1, beside, outer.neg_()).view(gradient.shape)
        return to_target, to_source, None, None


class _Solve(torch.autograd.Function):
    """``A w = b`` by any solver; the adjoint is the same solve."""

    @staticmethod
    def forward(ctx, right: Tensor, solver) -> Tensor:
        ctx.solver = solver
        return solver.solve(right)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        return _Solve.apply(gradient, ctx.solver), None


def _blend_import(target: Tensor, source: Tensor, factor: PoissonFactor, clamp: bool) -> Tensor:
    if not factor.num_pixels:
        return target.clone()
    if torch.is_grad_enabled() and (target.requires_grad or source.requires_grad):
        return _ImportGradients.apply(target, source, factor, clamp)
    return _insert(target, _import_gradients(target, source, factor), factor, clamp)


def _blend_mixed(target: Tensor, source: Tensor, factor: PoissonFactor, clamp: bool) -> Tensor:
    if not factor.num_pixels:
        return target.clone()
    inside, _ = factor.indices(target.device)
    right = _guidance(target, source, None, True).reshape(-1, target.shape[-2] * target.shape[-1])
    change = _Solve.apply(right.index_select(1, inside), factor.solver)
    rows = target.reshape(right.shape)
    pasted = rows.index_select(1, inside) + change
    return rows.index_copy(1, inside, pasted.clamp(0, 1) if clamp else pasted).view(target.shape)


def _blend_rectangle(
    target: Tensor, source: Tensor, mask: Tensor, mixed: bool, edges: tuple[bool, bool, bool, bool], clamp: bool
) -> Tensor:
    top, left, bottom, right = (0 if is_open else 1 for is_open in edges)
    height, width = target.shape[-2] - top - bottom, target.shape[-1] - left - right
    if height < 1 or width < 1:
        return target.clone()
    inside = (..., slice(top, top + height), slice(left, left + width))
    guidance = _guidance(target, source, mask.to(target.dtype), mixed)[inside]
    change = _Solve.apply(guidance, rectangle_solver(height, width, edges))
    pasted = target[inside] + change
    result = target.clone()
    result[inside] = pasted.clamp(0, 1) if clamp else pasted
    return result


def _guidance(target: Tensor, source: Tensor, mask: Tensor | None, mixed: bool) -> Tensor:
    """Sum over the neighbours q of p of ``c_pq ((S - T)_p - (S - T)_q)`` for every pixel p of the crop.

    The weight ``c_pq`` of a pair is the mean mask of the two (1 without a mask), 0 where ``mixed`` keeps the target.
    """
    difference = source - target
    total = torch.zeros_like(difference)
    for axis in (-2, -1):
        length = difference.shape[axis]
        flow = difference.diff(dim=axis)
        if mask is not None:
            flow = flow * ((mask.narrow(axis, 0, length - 1) + mask.narrow(axis, 1, length - 1)) / 2)
        if mixed:
            flow = flow * (source.detach().diff(dim=axis).abs() > target.detach().diff(dim=axis).abs())
        before, after = [0, 0, 0, 0], [0, 0, 0, 0]
        # torch counts the padding of the last axis first.
        before[0 if axis == -1 else 2], after[1 if axis == -1 else 3] = 1, 1
        total = total + torch.nn.functional.pad(flow, before) - torch.nn.functional.pad(flow, after)
    return total
