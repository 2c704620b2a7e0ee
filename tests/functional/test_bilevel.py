"""Quadratics, where every estimator has a closed form, and a tiny net against differences of whole trainings."""

import math

import pytest
import torch
from torch import nn

from mmdefect.functional.bilevel import (
    BilevelProblem,
    ConjugateGradient,
    NeumannSeries,
    OneStep,
    gradients,
    inner_steps,
    make_estimator,
)

SIZE, KNOBS = 6, 3


class Quadratic:
    """L_in = w'Hw/2 - w'(B policy); L_out = w'Mw/2 - c'w + penalty |policy|^2 / 2."""

    def __init__(self, seed=0, penalty=0.3):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        root = draw(SIZE, SIZE)
        self.hessian = root @ root.T / SIZE + 0.5 * torch.eye(SIZE, dtype=torch.float64)
        self.outer, self.cost, self.mixing = draw(SIZE, SIZE), draw(SIZE), draw(SIZE, KNOBS)
        self.outer = self.outer @ self.outer.T
        self.penalty = penalty
        self.policy = draw(KNOBS).requires_grad_()
        self.parts = [draw(2).requires_grad_(), draw(SIZE - 2).requires_grad_()]  # weights in two pieces

    @property
    def weights(self):
        return torch.cat(self.parts)

    def solve(self):
        solution = torch.linalg.solve(self.hessian, self.mixing @ self.policy.detach())
        with torch.no_grad():
            self.parts[0].copy_(solution[:2])
            self.parts[1].copy_(solution[2:])

    def problem(self, steps=(), decay=(), **kwargs):
        def inner():
            w = self.weights
            return w @ self.hessian @ w / 2 - w @ (self.mixing @ self.policy)

        def outer():
            w = self.weights
            return w @ self.outer @ w / 2 - self.cost @ w + self.penalty * self.policy.square().sum() / 2

        return BilevelProblem(self.parts, [self.policy], inner, outer, steps, decay, **kwargs)

    def slope(self):
        return (self.outer @ self.weights - self.cost).detach()

    def closed_form(self, inverse):
        """Hypergradient with ``p = inverse v``; the mixed derivative is ``-mixing'``."""
        return self.penalty * self.policy.detach() + self.mixing.T @ (inverse @ self.slope())


def steps_of(values):
    return [values[:2], values[2:]] if isinstance(values, torch.Tensor) else [values, values]


@pytest.mark.parametrize('products', ['exact', 'difference'])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_conjugate_gradient_meets_the_analytic_hypergradient(seed, products):
    quadratic = Quadratic(seed)
    quadratic.solve()
    found = ConjugateGradient(products=products, iterations=30, tolerance=1e-12)(quadratic.problem()).gradient[0]
    # d/dpolicy of L_out(w*(policy)) by autograd through the solution itself
    policy = quadratic.policy.detach().clone().requires_grad_()
    best = torch.linalg.solve(quadratic.hessian, quadratic.mixing @ policy)
    value = best @ quadratic.outer @ best / 2 - quadratic.cost @ best + quadratic.penalty * policy.square().sum() / 2
    torch.testing.assert_close(found, torch.autograd.grad(value, policy)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('products', ['exact', 'difference'])
@pytest.mark.parametrize('terms', [0, 1, 3, 7])
def test_neumann_is_the_truncated_series_exactly(terms, products):
    quadratic = Quadratic()
    steps = 0.05 + 0.1 * torch.rand(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    diagonal = steps.diag()
    rest = torch.eye(SIZE, dtype=torch.float64) - diagonal @ quadratic.hessian
    inverse = sum(torch.linalg.matrix_power(rest, j) for j in range(terms + 1)) @ diagonal
    found = NeumannSeries(products=products, terms=terms)(quadratic.problem(steps_of(steps)))
    torch.testing.assert_close(found.gradient[0], quadratic.closed_form(inverse), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('kind', ['adam', 'sgd'])
@pytest.mark.parametrize('terms', [1, 3, 40])
def test_a_series_that_would_grow_is_scaled(kind, terms):
    """Steps ten times too long for the sharpest direction: the series as it is turns round, the scaled one does not."""
    quadratic = Quadratic(1)
    steps = 0.5 + torch.rand(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    steps = steps if kind == 'adam' else torch.full_like(steps, 1.0)
    root = steps.sqrt().diag()
    steps = steps * 20 / torch.linalg.eigvalsh(root @ quadratic.hessian @ root).max()
    root = steps.sqrt().diag()
    largest = torch.linalg.eigvalsh(root @ quadratic.hessian @ root).max().item()
    assert largest == pytest.approx(20)
    given = steps_of(steps if kind == 'adam' else steps[0].item())
    slope = quadratic.slope()
    free = torch.cat(NeumannSeries(products='exact', terms=terms, alpha=1.0)(quadratic.problem(given)).response)
    held = torch.cat(NeumannSeries(products='exact', terms=terms)(quadratic.problem(given)).response)
    exact = torch.linalg.solve(quadratic.hessian, slope)
    assert (held @ slope > 0) and held.norm() <= 1.5 * exact.norm()
    assert free.norm() > 3 * held.norm()
    if terms < 4:
        assert free @ slope < 0  # an odd number of terms: the policy would go the wrong way
    # The factor is that of the first product, and with it the series is the truncated one.
    identity, diagonal = torch.eye(SIZE, dtype=torch.float64), steps.diag()
    first = diagonal @ slope
    product = quadratic.hessian @ first
    alpha = 1 / math.sqrt((product @ diagonal @ product / (first @ first.div(steps))).item())
    assert 1 <= alpha * largest < 2
    rest = identity - alpha * diagonal @ quadratic.hessian
    inverse = alpha * sum(torch.linalg.matrix_power(rest, j) for j in range(terms + 1)) @ diagonal
    torch.testing.assert_close(held, inverse @ slope, rtol=1e-8, atol=1e-8)
    same = NeumannSeries(products='exact', terms=terms, alpha=alpha)(quadratic.problem(given)).response
    torch.testing.assert_close(torch.cat(same), held, rtol=1e-8, atol=1e-8)


def test_a_series_ends_before_it_grows():
    """The first term hardly sees the sharp direction, so the scale is too large for it; later terms show it."""
    hessian = torch.tensor([1.0, 100.0], dtype=torch.float64).diag()
    weights = torch.tensor([1.0, 1e-3], dtype=torch.float64, requires_grad=True)
    policy = torch.ones(2, dtype=torch.float64, requires_grad=True)
    problem = BilevelProblem(
        [weights],
        [policy],
        lambda: weights @ hessian @ weights / 2 - weights @ policy,
        lambda: weights.square().sum() / 2,
        [1.0],
    )
    free = NeumannSeries(products='exact', terms=8, alpha=1.0)(problem).response[0]
    held = NeumannSeries(products='exact', terms=8)(problem).response[0]
    assert free.abs().max() > 1e6
    assert held.abs().max() < 2 and held[0] > 0.9


def test_a_long_series_tends_to_the_inverse():
    quadratic = Quadratic()
    step = 1 / torch.linalg.eigvalsh(quadratic.hessian).max().item()
    found = NeumannSeries(terms=400)(quadratic.problem(steps_of(step))).gradient[0]
    torch.testing.assert_close(found, quadratic.closed_form(torch.linalg.inv(quadratic.hessian)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('kind', [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize('lookahead', [False, True])
def test_one_step_equals_the_gradient_through_the_next_step_of_the_optimiser(kind, lookahead):
    """Differences of L_out after a real ``optimizer.step`` whose second moment is held fixed."""
    quadratic = Quadratic(penalty=0.0)
    optimizer = kind(quadratic.parts, lr=0.02, **({} if kind is torch.optim.AdamW else dict(weight_decay=0.1)))
    for _ in range(5):  # some history, so that the steps of Adam differ by weight
        optimizer.zero_grad()
        quadratic.problem().inner_loss().backward()
        optimizer.step()
    steps, decay = inner_steps(optimizer, quadratic.parts)
    problem = quadratic.problem(steps, decay)
    found = OneStep(lookahead=lookahead)(problem).gradient[0]
    step = torch.cat(
        [torch.as_tensor(s, dtype=torch.float64).expand_as(p) for s, p in zip(steps, quadratic.parts, strict=True)]
    )

    def after(policy):
        w = quadratic.weights.detach()
        slope = quadratic.hessian @ w - quadratic.mixing @ policy + decay[0] * w
        w = w - step * slope
        return w @ quadratic.outer @ w / 2 - quadratic.cost @ w

    here = quadratic.policy.detach()
    if lookahead:
        expected = torch.stack([(after(here + e) - after(here - e)) / 2e-5 for e in 1e-5 * torch.eye(KNOBS).double()])
    else:
        expected = quadratic.closed_form(step.diag())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_steps_of_adam_are_those_it_takes():
    weight = torch.tensor([1.0, -2.0], requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.0, 0.9))
    for _ in range(3):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        slope, before = weight.grad.clone(), weight.detach().clone()
        optimizer.step()
    # Without a first moment, the update is step times gradient.
    torch.testing.assert_close(before - weight.detach(), inner_steps(optimizer, [weight])[0][0] * slope)


def test_weight_decay_is_part_of_the_hessian():
    quadratic = Quadratic()
    decay = [0.7, 0.7]
    shifted = quadratic.hessian + 0.7 * torch.eye(SIZE, dtype=torch.float64)
    found = ConjugateGradient(iterations=40, tolerance=1e-12)(quadratic.problem(decay=decay)).gradient[0]
    torch.testing.assert_close(found, quadratic.closed_form(torch.linalg.inv(shifted)), rtol=1e-6, atol=1e-6)


def test_damping_and_negative_curvature():
    quadratic = Quadratic()
    damped = quadratic.hessian + 2 * torch.eye(SIZE, dtype=torch.float64)
    found = ConjugateGradient(iterations=40, tolerance=1e-12, damping=2.0)(quadratic.problem()).gradient[0]
    torch.testing.assert_close(found, quadratic.closed_form(torch.linalg.inv(damped)), rtol=1e-6, atol=1e-6)
    quadratic.hessian = -quadratic.hessian  # ends at once instead of walking off
    assert all(not p.any() for p in ConjugateGradient()(quadratic.problem()).response)


@pytest.mark.parametrize(
    'estimator',
    [NeumannSeries(products='difference'), OneStep(lookahead=True), ConjugateGradient(), NeumannSeries(radius=0.001)],
)
def test_weights_keep_their_bits_and_no_grad_is_written(estimator):
    quadratic = Quadratic()
    before = [p.detach().clone() for p in quadratic.parts]
    estimator(quadratic.problem(steps_of(0.1)))
    for part, old in zip(quadratic.parts, before, strict=True):
        assert torch.equal(part, old) and part.grad is None and part.requires_grad
    assert quadratic.policy.grad is None


def test_fewer_samples_for_the_curvature_do_not_touch_the_mixed_term():
    quadratic = Quadratic()
    problem = quadratic.problem(steps_of(0.1), curvature_loss=lambda: 0 * quadratic.weights.sum())
    for products in ('exact', 'difference'):  # H = 0: every term of the series is A v
        found = NeumannSeries(products=products, terms=2)(problem).gradient[0]
        expected = quadratic.closed_form(0.3 * torch.eye(SIZE, dtype=torch.float64))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_processes_are_averaged():
    """Two ranks with half of the data each give what one with all of it gives."""
    halves = [Quadratic(0), Quadratic(1)]
    for part, other in zip(halves[1].parts, halves[0].parts, strict=True):
        part.data.copy_(other.data)
    halves[1].policy.data.copy_(halves[0].policy.data)
    whole = Quadratic(0)
    for name in ('hessian', 'outer', 'cost', 'mixing'):
        setattr(whole, name, (getattr(halves[0], name) + getattr(halves[1], name)) / 2)
    expected = NeumannSeries(terms=3)(whole.problem(steps_of(0.1))).gradient[0]

    import threading

    barrier, box, results = threading.Barrier(2), [None, None], [None, None]

    def run(rank):
        def average(tensors):
            box[rank] = tensors
            barrier.wait()
            mean = [(a + b) / 2 for a, b in zip(*box, strict=True)]
            barrier.wait()
            return mean

        results[rank] = NeumannSeries(terms=3)(halves[rank].problem(steps_of(0.1), average=average)).gradient[0]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    torch.testing.assert_close(results[0], expected)
    torch.testing.assert_close(results[1], expected)


def test_a_net_agrees_with_differences_of_its_training():
    """Ten SGD steps near the minimum: the hypergradient tells how the outer loss moves with the weight of a set."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    data = [(torch.randn(24, 2).double(), torch.randn(24, 1).double()) for _ in range(3)]
    start = [p.detach().clone() for p in net.parameters()]

    def loss(index):
        return (net(data[index][0]) - data[index][1]).square().mean()

    def train(policy, steps):
        for p, s in zip(net.parameters(), start, strict=True):
            p.data.copy_(s)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(steps):
            optimizer.zero_grad()
            total = policy[0] * loss(0) + policy[1] * loss(1) + 0.05 * sum(p.square().sum() for p in net.parameters())
            total.backward()
            optimizer.step()
        return loss(2).item()

    policy = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    expected = [
        (train(policy.detach() + e, 500) - train(policy.detach() - e, 500)) / 2e-3 for e in 1e-3 * torch.eye(2).double()
    ]
    train(policy.detach(), 500)
    problem = BilevelProblem(
        list(net.parameters()),
        [policy],
        lambda: policy[0] * loss(0) + policy[1] * loss(1) + 0.05 * sum(p.square().sum() for p in net.parameters()),
        lambda: loss(2),
    )
    found = ConjugateGradient(iterations=200, tolerance=1e-10)(problem).gradient[0]
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_what_is_not_connected_counts_as_zero():
    leaf = torch.ones(2, requires_grad=True)
    assert gradients(torch.ones(()), [leaf])[0].tolist() == [0, 0]
    assert gradients((leaf * 2).sum(), [leaf, torch.ones(1, requires_grad=True)])[1].tolist() == [0]


def test_errors():
    quadratic = Quadratic()
    with pytest.raises(ValueError, match='one of neumann, cg, one_step'):
        make_estimator('newton')
    with pytest.raises(ValueError, match='`steps` must be given'):
        NeumannSeries()(quadratic.problem())
    with pytest.raises(ValueError, match='leaf tensors'):
        BilevelProblem([quadratic.weights], [quadratic.policy], None, None)
    with pytest.raises(ValueError, match='must be SGD, Adam or AdamW, got Adagrad'):
        inner_steps(torch.optim.Adagrad(quadratic.parts), quadratic.parts)
    with pytest.raises(ValueError, match='must hold every weight'):
        inner_steps(torch.optim.SGD(quadratic.parts[:1], lr=1), quadratic.parts)
    for bad in (dict(terms=-1), dict(products='guess'), dict(radius=0)):
        with pytest.raises(ValueError, match='must be'):
            NeumannSeries(**bad)
    assert math.isfinite(make_estimator('one_step', radius=0.1)(quadratic.problem(steps_of(0.1))).outer_loss)
