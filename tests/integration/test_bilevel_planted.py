"""A planted problem: defects are real in one corner only; elsewhere the same spots are sound. Does learning find out?

Images of 32x32 with a bright spot. In the upper left it is a defect; anywhere else it is a drop of oil, which every
image may show and which is labelled normal. Donors pasted outside of the corner teach a contradiction of the outer
set. A second stream pastes donors so dark that they look like nothing in the outer set: a distractor.
"""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mmdefect.functional.bilevel import BilevelProblem, NeumannSeries, inner_steps
from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.learned.maps import ObjectCells
from mmdefect.synthesis.learned.policy import LearnedPolicy
from mmdefect.synthesis.learned.synthesis import LearnedSynthesis
from mmdefect.synthesis.library import CuttingRule
from mmdefect.synthesis.places import location_codes
from mmdefect.synthesis.sampler import Background
from tests.helpers.defects import library_of_parts

SIDE, SPOT, CORNER = 32, 4, 16
CODES = location_codes((SIDE, SIDE))


def draw_image(rng, spots):
    """Return an image, ``(H, W, 3)`` uint8, and its label; a spot is a defect when it lies in the corner."""
    image = np.clip(90 + rng.normal(0, 5, (SIDE, SIDE, 3)), 0, 255)
    label = np.zeros((SIDE, SIDE), np.uint8)
    for inside in spots:
        row, column = rng.integers(1, CORNER - SPOT, 2) if inside else rng.integers(1, SIDE - SPOT - 1, 2)
        while not inside and row < CORNER and column < CORNER:
            row, column = rng.integers(1, SIDE - SPOT - 1, 2)
        image[row : row + SPOT, column : column + SPOT] = 200 + rng.normal(0, 5, (SPOT, SPOT, 3))
        label[row : row + SPOT, column : column + SPOT] = inside
    return image.astype(np.uint8), label


def tensors(parts):
    images = torch.stack([torch.from_numpy(image.transpose(2, 0, 1)).float() / 255 for image, _ in parts])
    return images, torch.stack([torch.from_numpy(label).long() for _, label in parts])


class Net(nn.Module):
    """Sees a spot and where it is."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(5, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 1)
        )
        line = torch.linspace(-1, 1, SIDE)
        self.register_buffer('places', torch.stack(torch.meshgrid(line, line, indexing='ij'))[None])

    def forward(self, images):
        return self.layers(torch.cat([images - 0.4, self.places.expand(len(images), -1, -1, -1)], 1))


def sample_losses(net, images, labels):
    return nn.functional.cross_entropy(net(images), labels, torch.tensor([1.0, 6.0]), reduction='none').mean((1, 2))


def weighted_loss(net, images, labels, weights):
    return (sample_losses(net, images, labels) * weights).mean()


def learn(seed, folder, location, rates, inner_count=600, every=3, sparsity=0.0):
    """Train net and policy together; return the policy and the distribution of its places."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    donors = [draw_image(rng, [True]) for _ in range(6)]
    clean = [draw_image(rng, [False] * int(rng.integers(0, 2))) for _ in range(24)]
    outer = tensors([draw_image(rng, [True] * int(i % 2) + [False] * (1 + i % 3)) for i in range(24)])
    engine = PasteEngine(
        library_of_parts(folder, donors, CuttingRule(margin=2)),
        dict(places=dict(even=1), blends=dict(alpha=1), grow=0, min_visible=0.2, clearance=0, min_inside=0.0),
    )
    dark = dict(brightness=(0.1, 1.0))
    policy = LearnedPolicy(
        streams=dict(useful=('rotate',), distractor=('brightness',)),
        learn=('weights', 'location'),
        ranges=dict(rotate=(-5, 5), flip_probability=0, elastic_probability=0, **dark),
        probabilities=dict(rotate=0.5, brightness=0.98),
        location=location,
    )
    synthesis = LearnedSynthesis(engine, policy, clean_share=0.25)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.004)
    outer_optimizer = torch.optim.Adam(policy.groups(rates), betas=(0.9, 0.99))
    starts = [group['lr'] for group in outer_optimizer.param_groups]
    estimator = NeumannSeries(terms=3, products='difference')
    weights = list(net.parameters())

    def batch(step, count, differentiable):
        synthesis.differentiable = differentiable
        chosen = np.random.default_rng((seed, step)).integers(0, len(clean), count)
        images, labels = tensors([clean[i] for i in chosen])
        made = synthesis(
            images,
            labels,
            [dict(sample_seed=10_000 * step + i, shows_defect=False) for i in range(count)],
            [Background(np.zeros((SIDE, SIDE), np.uint8), CODES)] * count,
        )
        return made.image, made.label, synthesis.last.weights

    for step in range(inner_count):
        images, labels, sample_weights = batch(2 * step, 8, False)
        optimizer.zero_grad()
        (sample_losses(net, images, labels) * sample_weights).mean().backward()
        optimizer.step()
        if step < 120 or step % every:  # a net that knows no spot yet gains from a paste anywhere
            continue
        images, labels, sample_weights = batch(2 * step + 1, 36, True)
        leaf = sample_weights.detach().clone().requires_grad_()
        steps, decay = inner_steps(optimizer, weights)
        problem = BilevelProblem(
            weights,
            [leaf],
            partial(weighted_loss, net, images, labels, leaf),
            lambda: sample_losses(net, *outer).mean(),
            steps,
            decay,
        )
        found = estimator(problem).gradient[0]
        for parameter, gradient in zip(
            policy.leaves(), torch.autograd.grad(sample_weights, policy.leaves(), found, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        if sparsity:
            (sparsity * policy.location.sparsity(images, [CODES] * 36)).backward()
        for group, start in zip(outer_optimizer.param_groups, starts, strict=True):
            group['lr'] = start * (1.2 - step / inner_count)
        outer_optimizer.step()
        policy.project()
    images, _ = tensors([draw_image(rng, [])])
    table = policy.location.tables(images, [CODES], [ObjectCells.of(CODES)])[0, 0].detach()
    return policy, table / table.sum()


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_net_finds_the_corner_and_the_distractor_loses(seed, tmp_path):
    policy, places = learn(
        seed, tmp_path, dict(type='net', channels=8, side=32), dict(weights=0.05, location=0.02), sparsity=0.001
    )
    edge = 32 * CORNER // SIDE
    mass = places[:edge, :edge].sum().item()
    weights = dict(zip(policy.names, policy.stream_weights().tolist(), strict=True))
    print(f'seed {seed}: {mass:.3f} of the map in the corner, weights {weights}')
    assert mass >= 0.9
    assert weights['distractor'] < 0.1 * weights['useful']
