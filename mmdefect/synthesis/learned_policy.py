"""A policy of pasting whose numbers are parameters: weights of streams, ranges and probabilities of the operations, places.

Every sample of a batch belongs to a *stream*: ``image`` (a real image as it is), ``clean`` (a sound image as it is),
or one that pastes a defect with some of the operations. The loss of a stream counts by its weight. Ranges are learned
through the pixels (a value is ``low + (high - low) u``); probabilities through the likelihood of what was drawn; places
as :mod:`mmdefect.synthesis.learned_location` says. Nothing here knows how the gradient comes about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdefect.synthesis.augment import OPERATIONS, OperationRanges
from mmdefect.synthesis.learned_location import ClassMaps, LocationNet, Proposal

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
