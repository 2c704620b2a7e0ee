"""Paste with a policy that is being learned: sample for a batch, and say how much each sample counts.

Sampling is that of :class:`~mmdefect.synthesis.engine.PasteEngine`, with ranges, probabilities and densities of the
policy as they are now. The weight of a sample is the product of

* the weight of its stream,
* map over proposal at the place of its defect (:meth:`~mmdefect.synthesis.learned.maps.Proposal.weight`),
* the likelihood of its operations over the same number held fixed, which is 1 and has the gradient of a score function;
  dividing by the mean of the batch subtracts the mean loss as a baseline.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdefect.synthesis.engine import INVISIBLE, PasteEngine
from mmdefect.synthesis.learned.maps import ObjectCells
from mmdefect.synthesis.learned.policy import CLEAN, NEUTRAL, REAL, LearnedPolicy, located
from mmdefect.synthesis.operations import OPERATIONS
from mmdefect.synthesis.places import location_codes
from mmdefect.synthesis.records import Synthesis, shows_defect
from mmdefect.synthesis.sampler import Background, Paste
from mmdefect.synthesis.streams import seed_of, stream_generator

#: After this many sampled defects in a row without a place, something is wrong with the maps or the objects.
PATIENCE = 200


@dataclass
class WeightedBatch:
    """What the last batch was made of.

    Attributes:
        weights: ``(B,)``, how much each sample counts; differentiable in the policy when asked for.
        streams: name of the stream of each sample.
        skipped: number of sampled defects that were not pasted, by reason.
    """

    weights: Tensor
    streams: list[str]
    skipped: Counter = field(default_factory=Counter)


class LearnedSynthesis:
    """Makes the defects of a batch; handed to ``SynthesisDataPreProcessor.set_synthesis``.

    A good image becomes ``clean`` with ``clean_share``, else it gets one defect of a pasting stream, each as often
    as the others; an image with a real defect is of the stream ``image`` and stays as it is.

    Args:
        engine: library and settings of pasting; its numbers of defects, operations and densities are not used.
        policy: the policy.
        clean_share: of the good images.
        patience: see :data:`PATIENCE`.
    """

    def __init__(
        self, engine: PasteEngine, policy: LearnedPolicy, clean_share: float = 0.5, patience: int = PATIENCE
    ) -> None:
        if not 0 <= clean_share <= 1:
            raise ValueError(f'`clean_share` must be in [0, 1], got {clean_share}.')
        places = engine.policy.places if policy.location is None else located(engine.policy.places)
        self.engine = PasteEngine(engine.library, replace(engine.policy, number={1: 1.0}, places=places, variants=0))
        highest = max(engine.library.classes)
        if policy.location is not None and policy.location.per_class and len(policy.location.logits) < highest:
            raise ValueError(
                f'`num_classes` of the location maps must be at least {highest}, the highest class of the donors, '
                f'got {len(policy.location.logits)}.'
            )
        self.policy, self.clean_share, self.patience = policy, clean_share, patience
        self.round, self.differentiable = 0, False
        self.last: WeightedBatch | None = None
        self.seen: tuple[Tensor, list[np.ndarray]] | None = None  # images and codes of the last batch
        self._without_place = 0

    def __call__(
        self, images: Tensor, labels: Tensor, metas: Sequence[Mapping[str, Any]], backgrounds: Sequence[Background]
    ) -> Synthesis:
        """Paste; ``last`` then holds the weights.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], RGB.
            labels: ``(B, H, W)`` int64.
            metas: ``sample_seed``, and where known ``shows_defect`` and ``img_path``, of each sample.
            backgrounds: what is known of each image.

        Returns:
            New tensors; with ``differentiable`` the images carry the gradient of the ranges.

        Raises:
            ValueError: if no defect has found a place for long; the message names an image.
        """
        with torch.set_grad_enabled(self.differentiable):
            codes = [location_codes(b.label.shape) if b.codes is None else b.codes for b in backgrounds]
            self.seen = images.detach(), codes
            objects = tables = None
            if self.policy.location is not None:
                objects = [ObjectCells.of(one) for one in codes]
                tables = self.policy.location.tables(images, codes, objects)
            streams, generators = zip(*map(self._choose_stream, metas, backgrounds), strict=True)
            rows = [row for row, stream in enumerate(streams) if stream not in (REAL, CLEAN)]
            names = [str(metas[row].get('img_path', 'an image')) for row in rows]
            densities = [None] * len(rows)
            if objects is not None:
                densities = [self._densities(tables[r], objects[r], n) for r, n in zip(rows, names, strict=True)]
                backgrounds = [replace(background, density=None) for background in backgrounds]
            sampled = self.engine.sample_batch(
                [backgrounds[row] for row in rows],
                [generators[row] for row in rows],
                images,
                [self.policy.ranges_of(streams[row]) for row in rows],
                densities,
            )
            index = torch.tensor(rows, dtype=torch.int64, device=images.device)
            made = self.engine.write_batch(images[index], labels[index], sampled)
            new_images, new_labels = images.clone(), labels.clone()
            new_images[index], new_labels[index] = made.image, made.label
            streams, instances, skipped = list(streams), [[] for _ in metas], Counter()
            factors, likelihoods = [None] * len(images), [None] * len(images)
            for place, (row, name) in enumerate(zip(rows, names, strict=True)):
                self._check_place(sampled.skipped[place], name)
                instances[row] = made.instances[place]
                if not instances[row]:
                    skipped.update(sampled.skipped[place] or [INVISIBLE])
                    streams[row] = CLEAN
                    continue
                (paste,) = sampled.pastes[place]
                if objects is not None and not paste.parameters.get('at_source'):
                    factors[row] = self._place_weight(paste, tables[row], densities[place], objects[row])
                if self.differentiable and self.policy.raw_probabilities.requires_grad:
                    log = self.policy.log_likelihood(streams[row], applied_operations(paste.parameters))
                    likelihoods[row] = torch.exp(log - log.detach())
            weights = self._weights(streams, factors, likelihoods).to(images.device)
            self.last = WeightedBatch(weights, streams, skipped)
            return Synthesis(new_images, new_labels, instances, dict(skipped))

    def _choose_stream(self, meta: Mapping, background: Background) -> tuple[str, torch.Generator]:
        """Return the stream of a sample, and its generator for what follows."""
        generator = stream_generator(seed_of(meta), type(self).__name__, self.round)
        shows = meta.get('shows_defect')
        if shows is None:
            shows = shows_defect(background.label)
        stay, pick = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        names = list(self.policy.streams)
        if shows or stay < self.clean_share or not names:
            return REAL if shows else CLEAN, generator
        return names[int(pick * len(names))], generator

    def _row(self, table: Tensor, class_id: int) -> int:
        """Return which of the maps of an image is that of a class."""
        return class_id - 1 if len(table) > 1 else 0

    def _densities(self, table: Tensor, objects: ObjectCells, name: str) -> dict[int, np.ndarray]:
        """Return the density of places of each class in one image."""
        values = table.detach().cpu().float().numpy()
        rows = {c: self._row(table, c) for c in self.engine.library.classes}
        by_row = {row: self.policy.proposal.density(values[row], objects, name) for row in set(rows.values())}
        return {c: by_row[row] for c, row in rows.items()}

    def _place_weight(self, paste: Paste, table: Tensor, densities: Mapping, objects: ObjectCells) -> Tensor:
        """Return map over proposal at the place of a defect."""
        cells, density = objects.under(paste.mask, paste.corner), densities[paste.class_id]
        return self.policy.proposal.weight(table[self._row(table, paste.class_id)], density, objects, cells)

    def _check_place(self, skipped: Mapping[str, int], name: str) -> None:
        """Raise when defects have found no place for long."""
        self._without_place = self._without_place + 1 if skipped else 0
        if self._without_place >= self.patience:
            raise ValueError(
                f'defects must find a place, but {self._without_place} in a row found none, the last one in {name} '
                f'({", ".join(sorted(skipped))}); look at the object masks (`location` of the recipe) and the '
                'learned maps.'
            )

    def _weights(self, streams: Sequence[str], factors: Sequence, likelihoods: Sequence) -> Tensor:
        by_stream = dict(zip(self.policy.names, self.policy.stream_weights(), strict=True))
        present = [one for one in likelihoods if one is not None]
        baseline = torch.stack(present).mean() if present else None
        weights = []
        for stream, factor, likelihood in zip(streams, factors, likelihoods, strict=True):
            weight = by_stream[stream]
            weight = weight if factor is None else weight * factor
            weight = weight if likelihood is None else weight * (likelihood / baseline)
            weights.append(weight)
        return torch.stack(weights)


def applied_operations(parameters: Mapping[str, float]) -> list[bool]:
    """Tell from the record of a paste which of the eight operations were applied: those that changed anything."""
    columns = {name: name if name != 'scale' else 'scale_x' for name in OPERATIONS}
    return [parameters[columns[name]] != NEUTRAL[name] for name in OPERATIONS]
