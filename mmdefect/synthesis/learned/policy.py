"""A policy of pasting whose numbers are parameters: weights of streams, ranges and probabilities of operations, places.

Every sample of a batch belongs to a *stream*: ``image`` (a real image as it is), ``clean`` (a good image as it is), or
one that pastes a defect with some of the operations. The loss of a stream counts by its weight. Ranges are learned
through the pixels (a value is ``low + (high - low) u``), probabilities through the likelihood of what was sampled, and
places as :mod:`mmdefect.synthesis.learned.maps` says. Nothing here knows how the gradient comes about.

:func:`freeze` turns what was learned into a recipe for plain training. Weights of losses become shares of samples: a
stream of weight ``w`` sampled with share ``f`` and one of weight 1 sampled with share ``f w`` have the same expected
gradient, up to a factor common to all streams. In the same way a map that weighs evenly sampled places becomes the
density that places are sampled from; its mean becomes part of the share.
"""

import pprint
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmdefect.synthesis.learned.maps import ClassMaps, LocationNet, Proposal
from mmdefect.synthesis.operations import OPERATIONS, OperationRanges

#: Streams that paste nothing.
REAL, CLEAN = 'image', 'clean'
#: Streams of the published system: one for each family of operations.
STREAMS = dict(
    photometric=('brightness', 'contrast', 'saturation', 'hue'),
    rotate=('rotate',),
    shear=('shear_x', 'shear_y'),
    scale=('scale',),
)
#: Of each operation: a unit, so that one step size serves all ranges; the published limits of its range (a defect is
#: never scaled below a tenth); and the neutral value that the range must hold, so that "a little" stays possible.
RANGE_RULES = dict(
    rotate=(30.0, -180, 180, 0.0),
    shear_x=(15.0, -60, 60, 0.0),
    shear_y=(15.0, -60, 60, 0.0),
    scale=(1.0, 0.1, 3, 1.0),
    brightness=(1.0, 0, 3, 1.0),
    contrast=(1.0, 0, 3, 1.0),
    saturation=(1.0, 0, 3, 1.0),
    hue=(0.1, -0.5, 0.5, 0.0),
)
NEUTRAL = {name: rule[3] for name, rule in RANGE_RULES.items()}
MOST_WEIGHT, LEAST_PROBABILITY = 10.0, 0.02
LEARNABLE = ('weights', 'ranges', 'probabilities', 'location')
LOCATIONS = dict(net=LocationNet, maps=ClassMaps)
FORMAT = 'mmdefect-policy/1'
#: Streams that weigh less than this share of the heaviest one are left out of a recipe.
LEAST_SHARE = 0.01
#: Place of the recipe's own folder, which mmengine fills in when it reads the file.
HERE = '{{ fileDirname }}'


class LearnedPolicy(nn.Module):
    """The parameters of a policy, kept in their limits by :meth:`project`.

    Args:
        streams: operations of each pasting stream by name.
        learn: which of ``LEARNABLE`` are parameters; the others keep what they start with.
        ranges: where the ranges start: settings of :class:`~mmdefect.synthesis.operations.OperationRanges`. Flips and
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
        weights, settings = weights or {}, dict(location or {})
        self.streams = {name: tuple(operations) for name, operations in streams.items()}
        self.names = (REAL, *self.streams, CLEAN)
        self.learn = tuple(learn)
        unknown = [name for name in self.learn if name not in LEARNABLE]
        if unknown:
            raise ValueError(f'`learn` must name some of {", ".join(LEARNABLE)}, got {unknown}.')
        for name, operations in self.streams.items():
            if name in (REAL, CLEAN) or not set(operations) <= set(OPERATIONS):
                raise ValueError(
                    f'a stream must have a name other than {REAL} and {CLEAN} and operations of '
                    f'{", ".join(OPERATIONS)}, got {name!r} with {list(operations)}.'
                )
        unknown = sorted(set(weights) - set(self.names))
        if unknown:
            raise ValueError(f'`weights` must name streams, {", ".join(self.names)}, got {unknown}.')
        self.base_ranges = OperationRanges(**(ranges or {}))
        rules = torch.tensor([RANGE_RULES[name] for name in OPERATIONS], dtype=torch.float64)
        start = torch.tensor([getattr(self.base_ranges, name) for name in OPERATIONS], dtype=torch.float64)
        if not isinstance(probabilities, Mapping):
            probabilities = dict.fromkeys(OPERATIONS, probabilities)
        chances = torch.tensor([probabilities.get(name, 0.5) for name in OPERATIONS], dtype=torch.float64)
        self.register_buffer('units', rules[:, 0].clone())
        self._learn('weights', torch.tensor([float(weights.get(name, 1.0)) for name in self.names]))
        self._learn('ranges', start / self.units[:, None])
        self._learn('probabilities', torch.logit(chances.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)))
        self.proposal, self.location = Proposal(**(proposal or {})), None
        if location is not None:
            kind = settings.pop('type', None)
            if kind not in LOCATIONS:
                raise ValueError(f'`location` must have a type of {", ".join(LOCATIONS)}, got {kind!r}.')
            self.location = LOCATIONS[kind](**settings)
            self.location.requires_grad_('location' in self.learn)
        self.project()

    def _learn(self, name: str, value: Tensor) -> None:
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
        owned = {name: [getattr(self, f'raw_{name}')] for name in LEARNABLE[:3]}
        owned['location'] = [] if self.location is None else list(self.location.parameters())
        found = [
            dict(params=leaves, lr=float(rates.get(name, rates.get('default', 0.01))), name=name)
            for name, parameters in owned.items()
            if (leaves := [p for p in parameters if p.requires_grad])
        ]
        if not found:
            location = 'given' if self.location else 'absent'
            raise ValueError(f'a policy needs something to learn; `learn` is {self.learn}, `location` is {location}.')
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
        """Return the ranges of a stream; they carry their gradient, the probabilities do not."""
        allowed = torch.tensor([name in self.streams[stream] for name in OPERATIONS], dtype=torch.float64)
        probability = (self.chances().detach().cpu() * allowed).tolist()
        bounds = dict(zip(OPERATIONS, self.bounds().cpu(), strict=True))
        return replace(self.base_ranges, probability=probability, **bounds)

    def log_likelihood(self, stream: str, applied: Sequence[bool]) -> Tensor:
        """Return the logarithm of the probability that just these of the eight operations were applied.

        It is differentiable; operations that the stream does not have are left out.
        """
        allowed = torch.tensor([name in self.streams[stream] for name in OPERATIONS])
        sign = torch.where(torch.tensor(list(applied)), 1.0, -1.0).to(self.raw_probabilities)
        return nn.functional.logsigmoid(sign * self.raw_probabilities)[allowed.to(sign.device)].sum()

    @torch.no_grad()
    def project(self) -> None:
        """Bring every parameter back into its limits: weights in [0, 10], ranges ordered around the neutral value."""
        self.raw_weights.clamp_(0, MOST_WEIGHT)
        _, low, high, neutral = torch.tensor([RANGE_RULES[name] for name in OPERATIONS]).to(self.units).T
        bounds = self.bounds()
        bounds = torch.stack([bounds[:, 0].clamp(low, neutral), bounds[:, 1].clamp(neutral, high)], 1)
        self.raw_ranges.copy_(bounds / self.units[:, None])
        edge = torch.logit(torch.tensor(LEAST_PROBABILITY, dtype=torch.float64)).item()
        self.raw_probabilities.clamp_(edge, -edge)

    def scalars(self) -> dict[str, float]:
        """Return what can be plotted over time."""
        found = {f'weight.{name}': float(w) for name, w in zip(self.names, self.stream_weights().detach(), strict=True)}
        for name, (low, high), chance in zip(OPERATIONS, self.bounds().tolist(), self.chances().tolist(), strict=True):
            found |= {f'low.{name}': low, f'high.{name}': high, f'probability.{name}': chance}
        return found

    def summary(self) -> dict[str, Any]:
        """Return everything that was learned but the maps, as plain numbers: what ``policy.json`` holds."""
        return dict(
            format=FORMAT,
            learned=list(self.learn),
            streams={name: list(operations) for name, operations in self.streams.items()},
            weights=dict(zip(self.names, _rounded(self.stream_weights()), strict=True)),
            ranges={name: _rounded(pair) for name, pair in zip(OPERATIONS, self.bounds(), strict=True)},
            probabilities=dict(zip(OPERATIONS, _rounded(self.chances()), strict=True)),
        )


def located(places: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of places when all of them but the donor's own follow a density."""
    density = sum(share for place, share in places.items() if place != 'source')
    return dict(density=density, **({'source': places['source']} if 'source' in places else {}))


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

    Raises:
        ValueError: if every pasting stream weighs nothing: then the recipe is ``synthesis = None``.
    """
    weights = dict(zip(policy.names, policy.stream_weights().tolist(), strict=True))
    pasting = {name: weights[name] for name in policy.streams}
    heaviest = max(pasting.values())
    if not heaviest > 0:
        raise ValueError('every pasting stream was learned to weigh 0: pasting hurts; train with `synthesis = None`.')
    kinds = [step.get('type') for step in recipe.get('transforms') or []]
    if kinds != ['PasteDefects']:
        raise ValueError(
            f'a policy is learned for a recipe with one PasteDefects, got {kinds}; '
            'take configs/_base_/synthesis/paste_poisson.py.'
        )
    base = dict(recipe['transforms'][0])
    kept = {name: w for name, w in pasting.items() if w >= LEAST_SHARE * heaviest}
    strength = sum(kept.values()) / len(pasting) * (1.0 if map_mean is None else map_mean)
    ratio = recipe.get('ratio') or dict(real=1, synthetic=1, clean=1)
    factors = dict(real=weights[REAL], synthetic=strength, clean=weights[CLEAN])
    location = dict(recipe.get('location') or {}, **({} if density is None else {'density': density}))
    transforms = []
    for number, name in enumerate(kept):
        pasted = dict(base.get('policy') or {})
        places = dict(pasted.get('places') or {'density': 1.0})
        pasted |= dict(operations=_operations(policy, name), places=places if density is None else located(places))
        transforms.append(dict(base, policy=pasted, stream=number))
    return dict(
        {k: v for k, v in recipe.items() if k not in ('ratio', 'transforms', 'weights', 'location', 'where')},
        ratio={name: _rounded(ratio[name] * factor) for name, factor in factors.items()},
        location=location,
        transforms=transforms,
        weights=_rounded(kept.values()),
    )


def _operations(policy: LearnedPolicy, stream: str) -> dict[str, Any]:
    ranges = policy.ranges_of(stream)
    return dict(
        {name: _rounded(getattr(ranges, name)) for name in OPERATIONS},
        # A probability at its floor is "never".
        probability=[_rounded(p) if p > LEAST_PROBABILITY * 1.01 else 0.0 for p in ranges.probability],
        flip_probability=ranges.flip_probability,
        elastic=list(ranges.elastic),
        elastic_probability=ranges.elastic_probability,
        isotropic=ranges.isotropic,
    )


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Return a config file that holds the recipe; it goes among the ``_base_`` files of a leaf."""
    body = pprint.pformat(dict(recipe), width=110, sort_dicts=False, compact=True)
    return f'# Learned by a bi-level training; goes among the _base_ files of a leaf.\nsynthesis = {body}\n'


def _rounded(values: Any) -> Any:
    """Return a number, or all numbers of a tensor or sequence in a list, with six digits."""
    if isinstance(values, (int, float)):
        return float(f'{values:.6g}')
    return [_rounded(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
