"""Products of the second derivatives of an inner loss with vectors: exactly, or as differences of gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmdefect.functional.bilevel import BilevelProblem

PRODUCTS = ('exact', 'difference')
Loss = Callable[[], Tensor]


class Products(ABC):
    """Products of second derivatives of the inner loss with vectors, at the present weights."""

    def __init__(self, problem: BilevelProblem, radius: float) -> None:
        self.problem, self.radius = problem, radius

    def hessian(self, vector: list[Tensor]) -> list[Tensor]:
        """Return ``H vector``, averaged over processes."""
        return decayed(self.problem, self.problem.average(self._hessian(vector)), vector)

    @abstractmethod
    def _hessian(self, vector: list[Tensor]) -> list[Tensor]:
        """Return ``H vector`` of this process, without weight decay."""

    @abstractmethod
    def mixed(self, vector: list[Tensor]) -> list[Tensor]:
        """Return ``(d2 L_in / dpolicy dw) vector``, one tensor for each outer variable; of this process."""


class ExactProducts(Products):
    """Backward through the graph of the gradient; the graph is made once."""

    def __init__(self, problem: BilevelProblem, radius: float) -> None:
        super().__init__(problem, radius)
        self._slopes: dict[str, list[Tensor]] = {}

    def _graph(self, name: str, loss: Loss) -> list[Tensor]:
        if name not in self._slopes:
            self._slopes[name] = gradients(loss(), self.problem.weights, create_graph=True)
        return self._slopes[name]

    def _hessian(self, vector: list[Tensor]) -> list[Tensor]:
        loss = self.problem.curvature_loss
        slopes = self._graph('inner', self.problem.inner_loss) if loss is None else self._graph('curvature', loss)
        return gradients(slopes, self.problem.weights, vector, retain_graph=True)

    def mixed(self, vector: list[Tensor]) -> list[Tensor]:
        self._slopes.pop('curvature', None)  # its graph is done with
        return gradients(self._graph('inner', self.problem.inner_loss), self.problem.policy, vector)


class DifferenceProducts(Products):
    """Differences of first derivatives: forward for the Hessian, central for the mixed term."""

    def __init__(self, problem: BilevelProblem, radius: float) -> None:
        super().__init__(problem, radius)
        self._here: list[Tensor] | None = None
        self._before = [w.detach().clone() for w in problem.weights]

    def _reach(self, vector: list[Tensor]) -> float:
        norm = sum(float(torch.linalg.vector_norm(v.detach())) ** 2 for v in vector) ** 0.5
        return self.radius / norm if norm > 0 else 0.0

    def _hessian(self, vector: list[Tensor]) -> list[Tensor]:
        loss = self.problem.curvature_loss or self.problem.inner_loss
        if self._here is None:
            self._here = gradients(loss(), self.problem.weights)
        reach = self._reach(vector)
        if reach == 0:
            return [torch.zeros_like(v) for v in vector]
        with moved(self.problem.weights, vector, reach, self._before):
            there = gradients(loss(), self.problem.weights)
        return [(b - a).div_(reach) for a, b in zip(self._here, there, strict=True)]

    def mixed(self, vector: list[Tensor]) -> list[Tensor]:
        reach = self._reach(vector)
        if reach == 0:
            return [torch.zeros_like(p) for p in self.problem.policy]
        sides = []
        for sign in (1, -1):
            with (
                moved(self.problem.weights, vector, sign * reach, self._before),
                without_gradient(self.problem.weights),
            ):
                sides.append(gradients(self.problem.inner_loss(), self.problem.policy))
        return [(b - a) / (2 * reach) for b, a in zip(*sides, strict=True)]


def gradients(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], along: Sequence[Tensor] | None = None, **kwargs
) -> list[Tensor]:
    """Return gradients by the inputs; zeros for inputs and outputs that are not connected."""
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    along = [None] * len(outputs) if along is None else along
    pairs = [(o, a) for o, a in zip(outputs, along, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(t) for t in inputs]
    found = torch.autograd.grad([o for o, _ in pairs], inputs, [a for _, a in pairs], allow_unused=True, **kwargs)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]


def decayed(problem: BilevelProblem, product: list[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    """Return the product with the share of the L2 penalty added."""
    if not any(problem.decay):
        return product
    return [h + d * v.detach() for h, d, v in zip(product, problem.decay, vector, strict=True)]


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the inner product of two lists of tensors."""
    return float(sum((a * b).sum(dtype=torch.float64) for a, b in zip(one, other, strict=True)))


@contextmanager
def moved(
    weights: Sequence[Tensor], direction: Sequence[Tensor], length: float, before: Sequence[Tensor] | None = None
):
    """Move the weights inside the block; afterwards they have their bits again, whatever happened.

    ``before`` is a copy of the weights as they are; one is made if it is None.
    """
    before = [w.detach().clone() for w in weights] if before is None else before
    try:
        with torch.no_grad():
            for w, old, d in zip(weights, before, direction, strict=True):
                torch.add(old, d, alpha=length, out=w)
        yield
    finally:
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)


@contextmanager
def without_gradient(weights: Sequence[Tensor]):
    """Treat the weights as constants inside the block: a graph is kept only for what the policy reaches."""
    try:
        for w in weights:
            w.requires_grad_(False)
        yield
    finally:
        for w in weights:
            w.requires_grad_(True)
