"""The parameters of a policy, their limits, and that every gradient is what differences say it is."""

import numpy as np
import pytest
import torch

from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.learned.maps import FRESH, ClassMaps, LocationNet, ObjectCells, Proposal
from mmdefect.synthesis.learned.policy import LearnedPolicy
from mmdefect.synthesis.operations import OPERATIONS, OperationRanges
from mmdefect.synthesis.places import location_codes
from mmdefect.synthesis.sampler import Background
from tests.helpers.defects import labelled_parts, library_of_parts

GRID = 32


def codes_of(size_hw=(48, 64), holes=True):
    allowed = np.ones(size_hw, np.uint8)
    if holes:
        allowed[:8] = 0
        allowed[20:24, 30:40] = 0
    return location_codes(size_hw, allowed)


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(4))


@pytest.mark.parametrize(
    'operation', ['rotate', 'shear_x', 'shear_y', 'scale', 'brightness', 'contrast', 'saturation', 'hue']
)
def test_ranges_have_their_gradient_through_operation_and_poisson(library, operation):
    """Low and high of one range, through the warp or the colours and the membrane, in float64."""
    policy = LearnedPolicy(streams=dict(only=(operation,)), probabilities=0.98).double()
    engine = PasteEngine(library, dict(places=dict(even=1), blends=dict(poisson=1)))
    target = torch.rand(1, 3, 60, 70, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 0.4 + 0.3
    labels = torch.zeros(1, 60, 70, dtype=torch.int64)

    def composed(bounds):
        ranges = OperationRanges(
            **{operation: bounds},
            **{n: (0.0, 0.0) for n in OPERATIONS[:3] if n != operation},
            **{n: (1.0, 1.0) for n in OPERATIONS[3:7] if n != operation},
            **({} if operation == 'hue' else {'hue': (0.0, 0.0)}),
            probability=1.0,
            flip_probability=0,
            elastic_probability=0,
        )
        # Masks and places are fixed in the derivative.
        sampled = engine.sample_batch(
            [Background(labels[0].numpy())], [torch.Generator().manual_seed(3)], target, [ranges]
        )
        return engine.write_batch(target, labels, sampled).image

    index = OPERATIONS.index(operation)
    made = composed(policy.bounds()[index])
    slope = torch.autograd.grad(made.square().sum(), policy.raw_ranges)[0][index]
    step = 1e-6
    for side in (0, 1):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                policy.raw_ranges[index, side] += sign * step
                values.append(composed(policy.bounds()[index]).square().sum().item())
                policy.raw_ranges[index, side] -= sign * step
        assert slope[side].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-5)


def test_probabilities_have_the_score_of_a_bernoulli():
    policy = LearnedPolicy(streams=dict(some=('rotate', 'scale')), probabilities=dict(rotate=0.3, scale=0.8)).double()
    applied = [name in ('rotate', 'hue') for name in OPERATIONS]
    value = policy.log_likelihood('some', applied)
    assert value.item() == pytest.approx(np.log(0.3) + np.log(0.2))  # hue is no part of the stream
    raw = policy.raw_probabilities.detach().clone()

    def likelihood(logits):
        policy.raw_probabilities.data.copy_(logits)
        return policy.log_likelihood('some', applied).item()

    slope = torch.autograd.grad(policy.log_likelihood('some', applied), policy.raw_probabilities)[0]
    for i in range(8):
        e = 1e-6 * torch.eye(8, dtype=torch.float64)[i]
        assert slope[i].item() == pytest.approx((likelihood(raw + e) - likelihood(raw - e)) / 2e-6, abs=1e-8)


def test_the_score_function_is_unbiased():
    """Mean over all outcomes of likelihood times loss has the derivative of the expected loss."""
    chance = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    loss = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): -2.0, (1, 1): 0.5}
    expected = sum(
        value * (chance[0] if a else 1 - chance[0]) * (chance[1] if b else 1 - chance[1])
        for (a, b), value in loss.items()
    )
    truth = torch.autograd.grad(expected, chance)[0]
    total = torch.zeros(2, dtype=torch.float64)
    for (a, b), value in loss.items():
        log = ((chance[0] if a else 1 - chance[0]) * (chance[1] if b else 1 - chance[1])).log()
        weight = torch.exp(log - log.detach())
        total += log.detach().exp() * torch.autograd.grad(weight * value, chance)[0]
    torch.testing.assert_close(total, truth)


@pytest.mark.parametrize('normalise', [False, True])
@pytest.mark.parametrize('kind', ['maps', 'net'])
def test_location_weights_have_their_gradient(kind, normalise):
    torch.manual_seed(0)
    codes = [codes_of(), codes_of(holes=False)]
    images = torch.rand(2, 3, 48, 64, dtype=torch.float64)
    model = (ClassMaps(2, size=4) if kind == 'maps' else LocationNet(channels=4, side=8)).double()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    objects = [ObjectCells.of(c) for c in codes]
    mask = np.ones((6, 5), bool)
    cells = objects[0].under(mask, (22, 27))
    proposal = Proposal(normalise=normalise)
    density = proposal.density(model.tables(images, codes, objects)[0, 0].detach().float().numpy(), objects[0], 'a')
    parameters = list(model.parameters())

    def weight(*values):
        for p, v in zip(parameters, values, strict=True):
            p.data.copy_(v)
        table = model.tables(images, codes, objects)[0, 0]
        return proposal.weight(table, density, objects[0], cells)

    start = [p.detach().clone() for p in parameters]
    slopes = torch.autograd.grad(weight(*start), parameters, allow_unused=True)
    checked = 0
    for which, slope in enumerate(slopes):
        if slope is None:
            continue
        for place in range(0, slope.numel(), max(1, slope.numel() // 5)):
            values = []
            for sign in (1, -1):
                moved = [s.clone() for s in start]
                moved[which].view(-1)[place] += sign * 1e-6
                values.append(weight(*moved).item())
            assert slope.view(-1)[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)
            checked += 1
    assert checked >= 5


def test_weights_undo_the_proposal():
    """Evenly drawn places weighted by the map, and places of the mixture with their weights, have one expected loss."""
    codes = codes_of()
    objects = ObjectCells.of(codes)
    rng = np.random.default_rng(0)
    table = torch.from_numpy(rng.random((GRID, GRID)).astype(np.float32) ** 3)
    loss = rng.random((GRID, GRID))
    share = objects.counts / objects.counts.sum()
    truth = (share * loss * table.numpy() / FRESH).sum()
    for proposal in (Proposal(), Proposal('even'), Proposal(share=0.05)):
        density = proposal.density(table.numpy(), objects, 'a')
        assert (share * density).sum() == pytest.approx(1, rel=1e-5)
        drawn = share * density
        weights = np.array(
            [
                [proposal.weight(table, density, objects, np.array([GRID * r + c])).item() for c in range(GRID)]
                for r in range(GRID)
            ]
        )
        assert (drawn * weights * loss).sum() == pytest.approx(truth, rel=1e-4)
        assert (drawn * weights)[share > 0].min() >= 0 and np.isfinite(weights[share > 0]).all()


def test_a_fresh_map_weighs_every_paste_one():
    codes, images = [codes_of()], torch.rand(1, 3, 48, 64)
    objects = [ObjectCells.of(codes[0])]
    for model in (ClassMaps(1), LocationNet()):
        table = model.tables(images, codes, objects)[0, 0]
        proposal = Proposal()
        density = proposal.density(table.detach().numpy(), objects[0], 'a')
        cells = objects[0].under(np.ones((5, 5), bool), (30, 10))
        assert proposal.weight(table, density, objects[0], cells).item() == pytest.approx(1, abs=0.05)


def test_the_map_of_a_net_moves_with_the_image():
    """A flipped image and its flipped codes give the same table over the file."""
    net = LocationNet(channels=4, side=16, coordinates=False)
    torch.nn.init.normal_(net.layers[-1].weight, std=1)
    codes = codes_of()
    image = torch.rand(1, 3, 48, 64)
    objects = ObjectCells.of(codes)
    pixels = torch.rand(48, 64)
    flipped = ObjectCells.of(np.ascontiguousarray(codes[:, ::-1]))
    torch.testing.assert_close(objects.means(pixels), flipped.means(pixels.flip(1)))
    sums = objects.means(pixels) * torch.from_numpy(objects.counts)
    assert sums.sum().item() == pytest.approx(pixels[torch.from_numpy(codes) > 0].sum().item(), rel=1e-5)
    assert net.tables(image, [codes], [objects]).shape == (1, 1, GRID, GRID)


def test_an_empty_map_is_reported_with_its_image():
    objects = ObjectCells.of(codes_of())
    table = np.full((GRID, GRID), 0.2, np.float32)
    with pytest.raises(ValueError, match='(?s)place on the object of some.png.*threshold 0.6'):
        Proposal('threshold').density(table, objects, 'some.png')
    with pytest.raises(ValueError, match='(?s)some.png.*empty.*sparsity'):
        Proposal().density(0 * table, objects, 'some.png')
    assert Proposal('threshold').density(table * 4, objects, 'some.png')[10, 10] == pytest.approx(1)


def test_projection_keeps_every_parameter_in_its_limits():
    policy = LearnedPolicy()
    with torch.no_grad():
        policy.raw_weights.copy_(torch.linspace(-3, 20, 6))
        policy.raw_ranges.copy_(torch.randn(8, 2) * 20)
        policy.raw_probabilities.fill_(50)
    policy.project()
    assert policy.stream_weights()[0] == 1
    assert policy.raw_weights.min() >= 0 and policy.raw_weights.max() <= 10
    assert policy.chances().max().item() == pytest.approx(0.98)
    for stream in policy.streams:
        policy.ranges_of(stream)  # raises when a range is not in order
    bounds = dict(zip(OPERATIONS, policy.bounds().tolist(), strict=True))
    assert bounds['scale'][0] >= 0.1 and bounds['rotate'][0] <= 0 <= bounds['rotate'][1]


def test_only_what_is_named_is_learned():
    policy = LearnedPolicy(learn=('weights', 'location'), location=dict(type='maps', num_classes=2))
    assert {g['name']: g['lr'] for g in policy.groups(dict(weights=0.1, default=0.5))} == dict(
        weights=0.1, location=0.5
    )
    assert len(policy.leaves()) == 2
    assert not policy.ranges_of('rotate').bounds().requires_grad
    with pytest.raises(ValueError, match='something to learn'):
        LearnedPolicy(learn=('location',)).groups({})
    for bad, message in (
        (dict(learn=['place']), 'must name some of'),
        (dict(streams=dict(clean=())), 'other than'),
        (dict(weights=dict(foo=1)), 'must name streams'),
        (dict(location=dict(type='x')), 'net, maps'),
    ):
        with pytest.raises(ValueError, match=message):
            LearnedPolicy(**bad)


def test_ranges_are_learned_from_donors_beside_something_else(tmp_path):
    """Donors at the outline of the object, whose surroundings show the screen: their masks follow no gradient."""
    library = library_of_parts(tmp_path / 'library', labelled_parts(4, outline=True))
    outlined = [donor for donor in map(library.__getitem__, range(len(library))) if donor.inside < 1]
    assert outlined and all((donor.mask == 0).any() for donor in outlined)
    policy = LearnedPolicy(streams=dict(only=('rotate', 'scale')), probabilities=0.98).double()
    engine = PasteEngine(library, dict(places=dict(even=1), blends=dict(poisson=1)))
    target = torch.full((6, 3, 60, 70), 0.4, dtype=torch.float64)
    labels = torch.zeros(6, 60, 70, dtype=torch.int64)
    bounds = policy.bounds()
    ranges = OperationRanges(rotate=bounds[OPERATIONS.index('rotate')], scale=bounds[OPERATIONS.index('scale')])
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    backgrounds = [Background(label.numpy()) for label in labels]
    sampled = engine.sample_batch(backgrounds, generators, target, [ranges] * 6)
    made = engine.write_batch(target, labels, sampled)
    made.image.square().sum().backward()
    assert made.label.any() and policy.raw_ranges.grad.abs().sum() > 0
