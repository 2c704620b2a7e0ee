"""A policy of pasting whose numbers are parameters: weights of streams, ranges and probabilities of the operations, places.

Every sample of a batch belongs to a *stream*: ``image`` (a real image as it is), ``clean`` (a sound image as it is),
or one that pastes a defect with some of the operations. The loss of a stream counts by its weight. Ranges are learned
through the pixels (a value is ``low + (high - low) u``); probabilities through the likelihood of what was drawn; places
as :mod:`mmdefect.synthesis.learned.maps` says. Nothing here knows how the gradient comes about.
"""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdefect.synthesis.augment import OPERATIONS, OperationRanges
from mmdefect.synthesis.learned.maps import ClassMaps, LocationNet, Proposal

#: Streams that paste nothing.
REAL, CLEAN = 'image', 'clean'
#: Streams of the published system: one for each family of operations.
STREAMS = dict(
    photometric=('brightness', 'contrast', 'saturation', 'hue'),
    rotate=('rotate',),
    shear=('shear_x', 'shear_y'),
    scale=('scale',),
)
#: A unit of each operation, so that one step size serves all ranges.
UNITS = dict(rotate=30.0, shear_x=15.0, shear_y=15.0, scale=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.1)
#: Published limits of the ranges while they are learned; a defect is never scaled below a tenth.
LIMITS = dict(
    rotate=(-180, 180),
    shear_x=(-60, 60),
    shear_y=(-60, 60),
    scale=(0.1, 3),
    brightness=(0, 3),
    contrast=(0, 3),
    saturation=(0, 3),
    hue=(-0.5, 0.5),
)
#: Neutral value that a range must hold, so that "a little" stays possible.
NEUTRAL = dict(rotate=0.0, shear_x=0.0, shear_y=0.0, scale=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0)
MOST_WEIGHT = 10.0
LEAST_PROBABILITY = 0.02
FORMAT = 'mmdefect-policy/1'
#: Streams that weigh less than this share of the heaviest one are left out of a recipe.
LEAST_SHARE = 0.01
#: Place of the recipe's own folder, which mmengine fills in when it reads the file.
HERE = '{{ fileDirname }}'
LEARNABLE = ('weights', 'ranges', 'probabilities', 'location')
LOCATIONS = dict(net=LocationNet, maps=ClassMaps)


class LearnedPolicy(nn.Module):
    """The parameters of a policy, kept in their limits by :meth:`project`.

    Args:
        streams: operations of each pasting stream by name.
        learn: which of ``LEARNABLE`` are parameters; the others keep what they start with.
        ranges: where the ranges start: settings of :class:`~mmdefect.synthesis.augment.OperationRanges`. Flips and
            elastic deformation of it are used and not learned.
        probabilities: where the probabilities of the eight operations start; a number for all, or by name.
        weights: where the weights of the streams start; 1 for those not named. That of ``image`` is the measure of all
            others and stays.
        location: ``dict(type='net')`` or ``dict(type='maps', num_classes=...)`` with the arguments of
            :class:`LocationNet` or :class:`ClassMaps`.
        proposal: settings of :class:`Proposal`.

    Raises:
        ValueError: for an unknown stream, operation, kind of map, or thing to learn.
    """

    def __init__(
        self,
        streams: Mapping[str, Sequence[str]] = STREAMS,
        learn: Sequence[str] = LEARNABLE,
        ranges: Mapping[str, Any] | None = None,
        probabilities: float | Mapping[str, float] = 0.5,
        weights: Mapping[str, float] | None = None,
        location: Mapping[str, Any] | None = None,
        proposal: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.streams = {name: tuple(operations) for name, operations in streams.items()}
        self.names = (REAL, *self.streams, CLEAN)
        self.learn = tuple(learn)
        self._check(weights or {})
        self.base_ranges = OperationRanges(**(ranges or {}))
        units = torch.tensor([UNITS[name] for name in OPERATIONS], dtype=torch.float64)
        start = torch.tensor([getattr(self.base_ranges, name) for name in OPERATIONS], dtype=torch.float64)
        chance = probabilities if isinstance(probabilities, Mapping) else dict.fromkeys(OPERATIONS, probabilities)
        chance = torch.tensor([chance.get(name, 0.5) for name in OPERATIONS], dtype=torch.float64)
        self.register_buffer('units', units)
        self._make('weights', torch.tensor([float((weights or {}).get(name, 1.0)) for name in self.names]))
        self._make('ranges', start / units[:, None])
        self._make('probabilities', torch.logit(chance.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)))
        self.proposal = Proposal(**(proposal or {}))
        self.location = None
        if location is not None:
            settings = dict(location)
            kind = settings.pop('type', None)
            if kind not in LOCATIONS:
                raise ValueError(f'`location` must have a type of {", ".join(LOCATIONS)}, got {kind!r}.')
            self.location = LOCATIONS[kind](**settings)
            self.location.requires_grad_('location' in self.learn)
        self.project()

    def _check(self, weights: Mapping[str, float]) -> None:
        unknown = [s for s in self.learn if s not in LEARNABLE]
        if unknown:
            raise ValueError(f'`learn` must name some of {", ".join(LEARNABLE)}, got {unknown}.')
        for name, operations in self.streams.items():
            if name in (REAL, CLEAN) or not set(operations) <= set(OPERATIONS):
                raise ValueError(
                    f'a stream must have a name other than {REAL} and {CLEAN} and operations of '
                    f'{", ".join(OPERATIONS)}, got {name!r} with {list(operations)}.'
                )
        if not set(weights) <= set(self.names):
            raise ValueError(
                f'`weights` must name streams, {", ".join(self.names)}, got {sorted(set(weights) - set(self.names))}.'
            )

    def _make(self, name: str, value: Tensor) -> None:
        self.register_parameter(f'raw_{name}', nn.Parameter(value, requires_grad=name in self.learn))

    def leaves(self) -> list[Tensor]:
        """Return the parameters that are learned."""
        return [p for p in self.parameters() if p.requires_grad]

    def groups(self, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return parameter groups of an optimiser, each with its own rate.

        Args:
            rates: learning rate of each of ``LEARNABLE``; ``default`` for those not named.
        """
        unknown = sorted(set(rates) - {*LEARNABLE, 'default'})
        if unknown:
            raise ValueError(f'`rates` must name {", ".join(LEARNABLE)} or default, got {unknown}.')
        found = []
        for name in LEARNABLE:
            owner = self.location if name == 'location' else getattr(self, f'raw_{name}')
            leaves = [] if owner is None else [owner] if isinstance(owner, Tensor) else list(owner.parameters())
            leaves = [p for p in leaves if p.requires_grad]
            if leaves:
                found.append(dict(params=leaves, lr=float(rates.get(name, rates.get('default', 0.01))), name=name))
        if not found:
            raise ValueError(
                'a policy must have something to learn, got none: `learn` names '
                f'{list(self.learn)} and `location` is {"given" if self.location else "absent"}.'
            )
        return found

    def stream_weights(self) -> Tensor:
        """Return the weight of each stream, in the order of ``names``; the first is 1 and has no gradient."""
        return torch.cat([torch.ones_like(self.raw_weights[:1]), self.raw_weights[1:]])

    def bounds(self) -> Tensor:
        """Return ``(8, 2)`` float64 low and high of each operation."""
        return self.raw_ranges * self.units[:, None]

    def chances(self) -> Tensor:
        """Return ``(8,)`` float64 probability of each operation."""
        return torch.sigmoid(self.raw_probabilities)

    def ranges_of(self, stream: str) -> OperationRanges:
        """Return what a stream draws from; ranges carry their gradient, probabilities do not."""
        base = self.base_ranges
        allowed = torch.tensor([name in self.streams[stream] for name in OPERATIONS], dtype=torch.float64)
        bounds = self.bounds().cpu()
        return OperationRanges(
            **{name: bounds[i] for i, name in enumerate(OPERATIONS)},
            probability=(self.chances().detach().cpu() * allowed).tolist(),
            flip_probability=base.flip_probability,
            elastic=base.elastic,
            elastic_probability=base.elastic_probability,
            isotropic=base.isotropic,
        )

    def log_likelihood(self, stream: str, applied: Sequence[bool]) -> Tensor:
        """Return the logarithm of the probability that just these operations were applied, differentiable.

        Args:
            stream: that the draw belongs to; operations it does not have are left out.
            applied: for each of the eight operations.
        """
        allowed = torch.tensor([name in self.streams[stream] for name in OPERATIONS])
        sign = torch.where(torch.tensor(list(applied)), 1.0, -1.0).to(self.raw_probabilities)
        return nn.functional.logsigmoid(sign * self.raw_probabilities)[allowed.to(sign.device)].sum()

    @torch.no_grad()
    def project(self) -> None:
        """Bring every parameter back into its limits: weights in [0, 10], ranges ordered and around the neutral value."""
        self.raw_weights.clamp_(0, MOST_WEIGHT)
        low, high = (torch.tensor([LIMITS[name][i] for name in OPERATIONS]).to(self.units) for i in (0, 1))
        neutral = torch.tensor([NEUTRAL[name] for name in OPERATIONS]).to(self.units)
        bounds = self.raw_ranges * self.units[:, None]
        bounds[:, 0] = bounds[:, 0].clamp(low, neutral)
        bounds[:, 1] = bounds[:, 1].clamp(neutral, high)
        self.raw_ranges.copy_(bounds / self.units[:, None])
        edge = torch.logit(torch.tensor(LEAST_PROBABILITY, dtype=torch.float64)).item()
        self.raw_probabilities.clamp_(edge, -edge)

    def scalars(self) -> dict[str, float]:
        """Return what can be plotted over time."""
        found = {f'weight.{name}': float(w) for name, w in zip(self.names, self.stream_weights().detach(), strict=True)}
        for name, (low, high), chance in zip(OPERATIONS, self.bounds().tolist(), self.chances().tolist(), strict=True):
            found |= {f'low.{name}': low, f'high.{name}': high, f'probability.{name}': chance}
        return found


def freeze(
    policy: LearnedPolicy, recipe: Mapping[str, Any], density: str | None = None, map_mean: float | None = None
) -> dict[str, Any]:
    """Return a ``synthesis`` recipe with what was learned, the rest as in ``recipe``.

    Args:
        policy: the learned policy.
        recipe: the ``synthesis`` that learning started from, with one ``PasteDefects``.
        density: path of the learned map, or of the folder with one for each image; ``None`` without locations.
        map_mean: mean of the learned map over the objects, relative to a fresh one; ``None`` for maps that do not say
            how much.

    Returns:
        Plain values, to be written with :func:`recipe_text`.

    Raises:
        ValueError: if every pasting stream weighs nothing: then the recipe is ``synthesis = None``.
    """
    weights = dict(zip(policy.names, policy.stream_weights().tolist(), strict=True))
    pasting = {name: weights[name] for name in policy.streams}
    heaviest = max(pasting.values())
    if not heaviest > 0:
        raise ValueError(
            'a recipe must paste something, but every pasting stream was learned to weigh 0: defects made '
            'this way do not help here; train with `synthesis = None`.'
        )
    kept = {name: w for name, w in pasting.items() if w >= LEAST_SHARE * heaviest}
    ratio = recipe.get('ratio') or dict(real=1, synthetic=1, clean=1)
    strength = sum(kept.values()) / len(pasting) * (1.0 if map_mean is None else map_mean)
    ratio = dict(
        real=_rounded(ratio['real'] * weights[REAL]),
        synthetic=_rounded(ratio['synthetic'] * strength),
        clean=_rounded(ratio['clean'] * weights[CLEAN]),
    )
    base = _pasting(recipe)
    location = dict(recipe.get('location') or {})
    if density is not None:
        location['density'] = density
    transforms = [
        dict(base, policy=_stream_policy(policy, name, base.get('policy') or {}, density is not None), stream=number)
        for number, name in enumerate(kept)
    ]
    return dict(
        {k: v for k, v in recipe.items() if k not in ('ratio', 'transforms', 'weights', 'location', 'where')},
        ratio=ratio,
        location=location,
        transforms=transforms,
        weights=[_rounded(w) for w in kept.values()],
    )


def _pasting(recipe: Mapping[str, Any]) -> dict[str, Any]:
    transforms = [dict(t) for t in recipe.get('transforms') or []]
    if [t.get('type') for t in transforms] != ['PasteDefects']:
        raise ValueError(
            'a policy is learned for a recipe with one PasteDefects, got '
            f'{[t.get("type") for t in transforms]}; take configs/_base_/synthesis/paste_poisson.py.'
        )
    return transforms[0]


def _stream_policy(policy: LearnedPolicy, stream: str, base: Mapping[str, Any], located: bool) -> dict[str, Any]:
    ranges = policy.ranges_of(stream)
    # A probability at its floor is "never".
    chances = [_rounded(p) if p > LEAST_PROBABILITY * 1.01 else 0.0 for p in ranges.probability]
    operations = {name: [_rounded(v) for v in getattr(ranges, name).tolist()] for name in OPERATIONS}
    operations |= dict(
        probability=chances,
        flip_probability=ranges.flip_probability,
        elastic=list(ranges.elastic),
        elastic_probability=ranges.elastic_probability,
        isotropic=ranges.isotropic,
    )
    places = dict(base.get('places') or {'density': 1.0})
    if located:
        places = {
            'density': sum(w for p, w in places.items() if p != 'source'),
            **{p: w for p, w in places.items() if p == 'source'},
        }
    return dict(base, operations=operations, places=places)


def policy_body(policy: LearnedPolicy, **facts: Any) -> dict[str, Any]:
    """Return the body of ``policy.json``: everything that was learned but the maps, and the given facts."""
    return dict(
        format=FORMAT,
        learned=list(policy.learn),
        streams={k: list(v) for k, v in policy.streams.items()},
        weights=dict(zip(policy.names, map(_rounded, policy.stream_weights().tolist()), strict=True)),
        ranges={
            name: [_rounded(v) for v in pair] for name, pair in zip(OPERATIONS, policy.bounds().tolist(), strict=True)
        },
        probabilities=dict(zip(OPERATIONS, map(_rounded, policy.chances().tolist()), strict=True)),
        **facts,
    )


@torch.no_grad()
def start_from(policy: LearnedPolicy, body: Mapping[str, Any]) -> None:
    """Set weights, ranges and probabilities of a policy to those of a ``policy.json``.

    Raises:
        ValueError: if the body is of another format, or its streams are others.
    """
    if body.get('format') != FORMAT:
        raise ValueError(f'a policy must have format {FORMAT!r}, got {body.get("format")!r}.')
    if {k: tuple(v) for k, v in body['streams'].items()} != policy.streams:
        raise ValueError(f'the policy must have the streams {list(policy.streams)}, got {list(body["streams"])}.')
    policy.raw_weights.copy_(torch.tensor([body['weights'][name] for name in policy.names]))
    ranges = torch.tensor([body['ranges'][name] for name in OPERATIONS], dtype=policy.units.dtype)
    policy.raw_ranges.copy_(ranges / policy.units.cpu()[:, None])
    chances = torch.tensor([body['probabilities'][name] for name in OPERATIONS], dtype=torch.float64)
    policy.raw_probabilities.copy_(torch.logit(chances.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)))
    policy.project()


def recipe_text(recipe: Mapping[str, Any], headline: str) -> str:
    """Return a config file that holds the recipe; it goes among the ``_base_`` files of a leaf."""
    body = pprint.pformat(dict(recipe), width=110, sort_dicts=False, compact=True)
    return f'# {headline}\nsynthesis = {body}\n'


def _rounded(value: float) -> float:
    return float(f'{float(value):.6g}')
