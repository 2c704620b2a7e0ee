"""Hypergradients: how an outer loss changes with the settings of a training, behind one interface.

Inner problem: ``w* = argmin L_in(w, policy)``. Outer problem: ``min L_out(w*(policy), policy)``. By the implicit
function theorem, ``dL_out/dpolicy = direct - (d2 L_in / dpolicy dw) p`` with ``p = H^-1 v``, ``H`` the Hessian of the
inner loss and ``v`` the gradient of the outer loss by the weights. The estimators differ in ``p`` only:

* :class:`NeumannSeries`: a truncated series in the step of the inner optimiser (Lorraine et al., 2020);
* :class:`ConjugateGradient`: solves the damped system (Rajeswaran et al., 2019);
* :class:`OneStep`: what one inner step makes of the policy (Liu et al., "DARTS", 2019), the series without a term.

Each takes products with second derivatives exactly, through a graph of the gradient, or as differences of gradients,
which need no second-order graph. ``docs/derivations/bilevel.md`` has the equations; the names there are used here.
Not covered: inner problems whose Hessian is indefinite at the solution; damping only hides that.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[], Tensor]
Tensors = list[Tensor]
#: A series whose next product stretches its term by more than this, after scaling, does not converge.
GROWTH = 2.0


@dataclass(frozen=True)
class BilevelProblem:
    """Two losses at one point. Every call of a loss must see the same samples: it is a function of the leaves only."""

    weights: Sequence[Tensor]  # inner variables, leaf tensors with gradient
    policy: Sequence[Tensor]  # outer variables, leaf tensors with gradient
    inner_loss: Loss  # scalar; reads weights and policy
    outer_loss: Loss  # scalar; reads the weights, and the policy where it is penalised
    # for each weight the step of the inner optimiser per unit of gradient, a number or a tensor: see `inner_steps`
    steps: Sequence[float | Tensor] = ()
    decay: Sequence[float] = ()  # for each weight the factor of an L2 penalty of the optimiser; part of the Hessian
    curvature_loss: Loss | None = None  # inner loss on fewer samples, for products with the Hessian
    # mean over processes of a list of tensors, called in the same order in all; one process has nothing to average
    average: Callable[[Tensors], Tensors] = list
    shared_policy: bool = True  # the outer variables are the same in all processes, so their gradient is averaged here

    def __post_init__(self) -> None:
        for name in ('weights', 'policy'):
            leaves = getattr(self, name)
            fixed = sum(not (t.is_leaf and t.requires_grad) for t in leaves)
            if not leaves or fixed:
                raise ValueError(f'`{name}` must be leaf tensors with gradient, got {len(leaves)}, {fixed} without.')
        for name in ('steps', 'decay'):
            count = len(getattr(self, name))
            if count not in (0, len(self.weights)):
                raise ValueError(f'`{name}` must hold one entry for each of {len(self.weights)} weights, got {count}.')

    def stepped(self, vector: Sequence[Tensor]) -> Tensors:
        """Return ``A vector``, with ``A`` the steps of the inner optimiser."""
        if not self.steps:
            raise ValueError(
                '`steps` must be given: the step of the inner optimiser for each weight; see `inner_steps`.'
            )
        return [step * v for step, v in zip(self.steps, vector, strict=True)]

    def decayed(self, product: Tensors, vector: Sequence[Tensor]) -> Tensors:
        """Return a product with the Hessian, with the share of the L2 penalty added."""
        if not any(self.decay):
            return product
        return [h + d * v.detach() for h, d, v in zip(product, self.decay, vector, strict=True)]


def gradients(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], along: Sequence[Tensor] | None = None, **kwargs
) -> Tensors:
    """Return gradients by the inputs; zeros for inputs and outputs that are not connected."""
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    along = [None] * len(outputs) if along is None else along
    pairs = [(o, a) for o, a in zip(outputs, along, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(t) for t in inputs]
    found = torch.autograd.grad([o for o, _ in pairs], inputs, [a for _, a in pairs], allow_unused=True, **kwargs)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the inner product of two lists of tensors."""
    return float(sum((a * b).sum(dtype=torch.float64) for a, b in zip(one, other, strict=True)))


@contextmanager
def moved(weights: Sequence[Tensor], before: Tensors, direction: Tensors, length: float, constant: bool = False):
    """Move the weights inside the block; afterwards they have their bits again, whatever happened.

    Args:
        before: a copy of the weights as they are.
        constant: treat the weights as constants inside: a graph is kept only for what the policy reaches.
    """
    try:
        with torch.no_grad():
            for w, old, d in zip(weights, before, direction, strict=True):
                torch.add(old, d, alpha=length, out=w)
                w.requires_grad_(not constant)
        yield
    finally:
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)
                w.requires_grad_(True)


class ExactProducts:
    """Products of second derivatives with vectors, backward through the graph of the gradient; it is made once."""

    def __init__(self, problem: BilevelProblem, radius: float) -> None:
        self.problem = problem
        self._slopes: dict[Loss, Tensors] = {}

    def _graph(self, loss: Loss) -> Tensors:
        if loss not in self._slopes:
            self._slopes[loss] = gradients(loss(), self.problem.weights, create_graph=True)
        return self._slopes[loss]

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``H vector`` of this process, without weight decay."""
        slopes = self._graph(self.problem.curvature_loss or self.problem.inner_loss)
        return gradients(slopes, self.problem.weights, vector, retain_graph=True)

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``(d2 L_in / dpolicy dw) vector``, one tensor for each outer variable; of this process."""
        self._slopes.pop(self.problem.curvature_loss, None)  # its graph is done with
        return gradients(self._graph(self.problem.inner_loss), self.problem.policy, vector)


class DifferenceProducts:
    """The same as differences of first derivatives: forward for the Hessian, central for the mixed term."""

    def __init__(self, problem: BilevelProblem, radius: float) -> None:
        self.problem, self.radius = problem, radius
        self._here: Tensors | None = None
        self._before = [w.detach().clone() for w in problem.weights]

    def _reach(self, vector: Tensors) -> float:
        norm = sum(float(torch.linalg.vector_norm(v.detach())) ** 2 for v in vector) ** 0.5
        return self.radius / norm if norm > 0 else 0.0

    def hessian(self, vector: Tensors) -> Tensors:
        """Return ``H vector`` of this process, without weight decay."""
        weights, reach = self.problem.weights, self._reach(vector)
        loss = self.problem.curvature_loss or self.problem.inner_loss
        if self._here is None:
            self._here = gradients(loss(), weights)
        if reach == 0:
            return [torch.zeros_like(v) for v in vector]
        with moved(weights, self._before, vector, reach):
            there = gradients(loss(), weights)
        return [(b - a).div_(reach) for a, b in zip(self._here, there, strict=True)]

    def mixed(self, vector: Tensors) -> Tensors:
        """Return ``(d2 L_in / dpolicy dw) vector``, one tensor for each outer variable; of this process."""
        reach, sides = self._reach(vector), []
        if reach == 0:
            return [torch.zeros_like(p) for p in self.problem.policy]
        for sign in (1, -1):
            with moved(self.problem.weights, self._before, vector, sign * reach, constant=True):
                sides.append(gradients(self.problem.inner_loss(), self.problem.policy))
        return [(b - a) / (2 * reach) for b, a in zip(*sides, strict=True)]


PRODUCTS = dict(exact=ExactProducts, difference=DifferenceProducts)


@dataclass(frozen=True)
class Hypergradient:
    """What an estimator returns."""

    gradient: Tensors  # one tensor for each outer variable, of its shape
    outer_loss: float  # averaged
    response: Tensors  # p, one tensor for each weight; the policy acts through it


@dataclass(frozen=True)
class Estimator(ABC):
    """Base of the estimators; a subclass says what ``p`` is.

    Args:
        products: 'exact', or 'difference' of gradients a short way apart.
        radius: length of that way, in the norm of all weights together.
    """

    products: str = 'exact'
    radius: float = 0.01

    def __post_init__(self) -> None:
        if self.products not in PRODUCTS:
            raise ValueError(f'`products` must be one of {", ".join(PRODUCTS)}, got {self.products!r}.')
        if self.radius <= 0:
            raise ValueError(f'`radius` must be above 0, got {self.radius}; it is a length in the space of weights.')

    def __call__(self, problem: BilevelProblem) -> Hypergradient:
        """Return the hypergradient. No ``.grad`` is touched and the weights keep their bits."""
        value, slopes, direct = self.outer_gradient(problem)
        products = PRODUCTS[self.products](problem, self.radius)

        def hessian(vector: Tensors) -> Tensors:
            return problem.decayed(problem.average(products.hessian(vector)), vector)

        response = self.respond(problem, slopes, hessian)
        gradient = [a - b for a, b in zip(direct, products.mixed(response), strict=True)]
        gradient = problem.average(gradient) if problem.shared_policy else gradient
        return Hypergradient(gradient, value, response)

    def outer_gradient(self, problem: BilevelProblem) -> tuple[float, Tensors, Tensors]:
        """Return value and gradient of the outer loss: by the weights, averaged, and by the policy, not averaged."""
        loss = problem.outer_loss()
        both = gradients(loss, [*problem.weights, *problem.policy])
        value = problem.average([loss.detach().clone()])[0].item()
        return value, problem.average(both[: len(problem.weights)]), both[len(problem.weights) :]

    @abstractmethod
    def respond(self, problem: BilevelProblem, slopes: Tensors, hessian: Callable[[Tensors], Tensors]) -> Tensors:
        """Return ``p`` for the gradient ``v`` of the outer loss; ``hessian`` multiplies by ``H``, averaged."""


@dataclass(frozen=True)
class NeumannSeries(Estimator):
    """``p = a sum_{j=0..terms} (I - a A H)^j A v`` with ``A`` the steps of the inner optimiser.

    It tends to ``H^-1 v`` while the spectrum of ``a A H`` lies in (0, 2). With ``a = 1`` and finite ``terms`` it equals
    what the last ``terms + 1`` inner steps made of the policy. The published settings are 1 and 3 terms.

    Adam trains where the largest ``A H`` is far above 2: its momentum keeps the weights in place, but the series with
    ``a = 1`` grows from term to term with changing sign, and its odd terms point the policy the wrong way. So, unless
    ``alpha`` says otherwise, ``a`` is 1 divided by the stretch of the first product where that is above 1, and the
    series ends before a product that would make it grow all the same.

    Args:
        terms: products with the Hessian.
        alpha: ``a``; ``None`` chooses it. With a number the series is taken as it is, growing or not.
    """

    terms: int = 3
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms < 0:
            raise ValueError(f'`terms` must be 0 or more, got {self.terms}.')
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f'`alpha` must be above 0, or None to choose it, got {self.alpha}.')

    def respond(self, problem: BilevelProblem, slopes: Tensors, hessian: Callable[[Tensors], Tensors]) -> Tensors:
        term = problem.stepped(slopes)
        total = [t.clone() for t in term]
        scale = 1.0 if self.alpha is None else self.alpha
        # In place: a net has millions of weights, and new lists of them for these lines cost a tenth of the step each.
        for number in range(self.terms):
            product = hessian(term)
            if self.alpha is None:
                stretch = _stretch(problem.steps, term, product)
                if number == 0:
                    scale = 1 / max(1.0, stretch)
                elif scale * stretch > GROWTH:
                    break
            for t, s, step, h in zip(term, total, problem.steps, product, strict=True):
                t.addcmul_(step, h, value=-scale) if isinstance(step, Tensor) else t.sub_(h, alpha=scale * step)
                s.add_(t)
        return total if scale == 1 else [s.mul_(scale) for s in total]


def _stretch(steps: Sequence[float | Tensor], term: Tensors, product: Tensors) -> float:
    """Return how much longer ``A H t`` is than ``t``, in the norm of the inverse of ``A``, for ``product = H t``.

    ``A H`` is symmetric in that norm, so this is at most its largest eigenvalue, and nears it from term to term.
    """
    after = sum(float((step * h).mul_(h).sum(dtype=torch.float64)) for step, h in zip(steps, product, strict=True))
    before = sum(float((t * t).div_(step).sum(dtype=torch.float64)) for step, t in zip(steps, term, strict=True))
    return (after / before) ** 0.5 if before > 0 else 0.0


@dataclass(frozen=True)
class OneStep(Estimator):
    """``p = A v``: the policy acts through the next inner step only. No Hessian is needed.

    Args:
        lookahead: whether ``v`` is taken after that step, as DARTS does for its second-order variant; costs one more
            gradient.
    """

    products: str = 'difference'
    lookahead: bool = False

    def outer_gradient(self, problem: BilevelProblem) -> tuple[float, Tensors, Tensors]:
        if not self.lookahead:
            return super().outer_gradient(problem)
        weights, slopes = problem.weights, problem.average(gradients(problem.inner_loss(), problem.weights))
        before = [w.detach().clone() for w in weights]
        with moved(weights, before, problem.stepped(problem.decayed(slopes, weights)), -1.0):
            return super().outer_gradient(problem)

    def respond(self, problem: BilevelProblem, slopes: Tensors, hessian: Callable[[Tensors], Tensors]) -> Tensors:
        return problem.stepped(slopes)


@dataclass(frozen=True)
class ConjugateGradient(Estimator):
    """``p`` solves ``(H + damping) p = v``; independent of the inner optimiser.

    Args:
        iterations: limit of products with the Hessian.
        tolerance: of the residual, relative to ``v``.
        damping: added to the diagonal. Where the curvature is still not positive, the iteration ends there.
    """

    iterations: int = 10
    tolerance: float = 1e-6
    damping: float = 0.0

    def respond(self, problem: BilevelProblem, slopes: Tensors, hessian: Callable[[Tensors], Tensors]) -> Tensors:
        solution = [torch.zeros_like(v) for v in slopes]
        residual, direction = list(slopes), list(slopes)
        power = dot(residual, residual)
        goal = self.tolerance**2 * power
        for _ in range(self.iterations):
            if power <= goal or power == 0:
                break
            product = hessian(direction)
            product = [h + self.damping * d for h, d in zip(product, direction, strict=True)]
            bend = dot(direction, product)
            if bend <= 0:
                break
            length = power / bend
            solution = [s + length * d for s, d in zip(solution, direction, strict=True)]
            residual = [r - length * h for r, h in zip(residual, product, strict=True)]
            power, before = dot(residual, residual), power
            direction = [r + power / before * d for r, d in zip(residual, direction, strict=True)]
        return solution


ESTIMATORS = dict(neumann=NeumannSeries, cg=ConjugateGradient, one_step=OneStep)


def make_estimator(name: str, **settings) -> Estimator:
    """Return an estimator by name, one of ``ESTIMATORS``."""
    if name not in ESTIMATORS:
        raise ValueError(f'`name` must be one of {", ".join(ESTIMATORS)}, got {name!r}.')
    return ESTIMATORS[name](**settings)


def inner_steps(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> tuple[list, list[float]]:
    """Return what an optimiser makes of a unit of gradient, with its present state held fixed.

    SGD: the learning rate; momentum only spreads a step over time and is left out. Adam and AdamW: learning rate over
    the root of the second moment, which is held fixed; before their first step, the learning rate.

    Returns:
        One step for each weight, a number or a tensor, and the factor of its L2 penalty. The decay of AdamW acts on the
        weights directly and is no part of the Hessian.
    """
    kind = type(optimizer).__name__
    if kind not in ('SGD', 'Adam', 'AdamW'):
        raise ValueError(f'the inner optimiser must be SGD, Adam or AdamW, got {kind}; or take the estimator `cg`.')
    groups = {id(w): group for group in optimizer.param_groups for w in group['params']}
    steps, decay = [], []
    for weight in weights:
        if id(weight) not in groups:
            shape = tuple(weight.shape)
            raise ValueError(f'the inner optimiser must hold every weight, but not one of shape {shape}; freeze it.')
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
