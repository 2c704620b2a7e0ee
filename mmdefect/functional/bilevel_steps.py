"""The steps of an inner optimiser as the diagonal matrix that the estimators of :mod:`bilevel` take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def inner_steps(
    optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]
) -> tuple[list[float | Tensor], list[float]]:
    """Return what an optimiser makes of a unit of gradient, with its present state held fixed.

    SGD: the learning rate; momentum only spreads a step over time and is left out. Adam and AdamW: learning rate over
    the root of the second moment, which is held fixed; before their first step, the learning rate.

    Args:
        optimizer: SGD, Adam or AdamW of torch.
        weights: the weights, in the order wanted; all must be in the optimiser.

    Returns:
        One step for each weight, and the factor of its L2 penalty. The decay of AdamW acts on the weights directly and
        is no part of the Hessian.

    Raises:
        ValueError: for another optimiser, or a weight that it does not hold.
    """
    kind = type(optimizer).__name__
    if kind not in ('SGD', 'Adam', 'AdamW'):
        raise ValueError(
            f'the inner optimiser must be SGD, Adam or AdamW, got {kind}; use the estimator `cg`, which '
            'does not ask for its steps.'
        )
    groups = {id(w): group for group in optimizer.param_groups for w in group['params']}
    steps, decay = [], []
    for weight in weights:
        if id(weight) not in groups:
            raise ValueError(
                f'the inner optimiser must hold every weight, but one of shape {tuple(weight.shape)} is '
                'not in it; freeze it with requires_grad=False.'
            )
        group = groups[id(weight)]
        decay.append(0.0 if kind == 'AdamW' or group.get('decoupled_weight_decay') else float(group['weight_decay']))
        steps.append(float(group['lr']) if kind == 'SGD' else _adam_step(optimizer.state.get(weight), group))
    return steps, decay


def _adam_step(state: dict | None, group: dict) -> float | Tensor:
    if not state:
        return float(group['lr'])
    second = state['max_exp_avg_sq'] if group.get('amsgrad') else state['exp_avg_sq']
    corrected = second / (1 - group['betas'][1] ** float(state['step']))
    return float(group['lr']) / (corrected.sqrt() + group['eps'])
