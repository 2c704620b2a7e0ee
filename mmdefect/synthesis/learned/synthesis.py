"""Paste with a policy that is being learned: sample for a batch, and say how much each sample counts.

Sampling is that of :class:`~mmdefect.synthesis.engine.PasteEngine`, with ranges, probabilities and densities of the
policy as they are now. The weight of a sample is the product of

* the weight of its stream,
* map over proposal at the place of its defect (:meth:`~mmdefect.synthesis.learned.maps.Proposal.weight`),
* the likelihood of its operations over the same number held fixed, which is 1 and has the gradient of a score function;
  dividing by the mean of the batch subtracts the mean loss as a baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdefect.synthesis.augment import OPERATIONS, OperationRanges
from mmdefect.synthesis.canvas import TensorCanvas
from mmdefect.synthesis.donor_fitting import grown_pixels, prepare_tensors
from mmdefect.synthesis.drawn_operations import operations_from
from mmdefect.synthesis.engine import Background, Paste, PasteEngine
from mmdefect.synthesis.learned.maps import ObjectCells
from mmdefect.synthesis.learned.policy import CLEAN, NEUTRAL, REAL, LearnedPolicy, located
from mmdefect.synthesis.location import location_codes
from mmdefect.synthesis.streams import stream_generator
from mmdefect.synthesis.types import IGNORE_LABEL, Instance, Synthesis

#: Operation of each column of ``VALUES``.
COLUMNS = (0, 1, 2, 3, 3, 4, 5, 6, 7)
#: After so many sampled defects in a row without a place, something is wrong with the maps or the objects.
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
            maps: Sequence = [None] * len(images)
            if self.policy.location is not None:
                objects = [ObjectCells.of(one) for one in codes]
                maps = list(zip(self.policy.location.tables(images, codes, objects), objects, strict=True))
            skipped: Counter = Counter()
            samples = zip(images, labels, metas, backgrounds, maps, strict=True)
            made = [self._make(*sample, skipped) for sample in samples]
            new_images, new_labels, instances, streams, factors, likelihoods = zip(*made, strict=True)
            weights = self._weights(streams, factors, likelihoods).to(images.device)
            self.last = WeightedBatch(weights, list(streams), skipped)
            return Synthesis(torch.stack(new_images), torch.stack(new_labels), list(instances), skipped=dict(skipped))

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

    def _make(
        self,
        image: Tensor,
        label: Tensor,
        meta: Mapping,
        background: Background,
        location: tuple | None,
        skipped: Counter,
    ) -> tuple[Tensor, Tensor, list[Instance], str, Tensor | None, Tensor | None]:
        """Return image, label map and instances of one sample, its stream, and what its weight is made of."""
        seed = meta['sample_seed'] if 'sample_seed' in meta else int(np.random.randint(0, 2**31))
        generator = stream_generator(seed, type(self).__name__, self.round)
        shows = meta.get('shows_defect')
        if shows is None:
            shows = bool(((background.label > 0) & (background.label != IGNORE_LABEL)).any())
        stay, pick = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        names = list(self.policy.streams)
        if shows or stay < self.clean_share or not names:
            return image, label, [], REAL if shows else CLEAN, None, None
        stream = names[int(pick * len(names))]
        canvas = TensorCanvas(image, label)
        pasted = self._paste(canvas, stream, generator, background, location, str(meta.get('img_path', 'an image')))
        if isinstance(pasted, Counter):
            skipped.update(pasted)
            return image, label, [], CLEAN, None, None
        instance, factor, likelihood = pasted
        return canvas.image, canvas.label, [instance], stream, factor, likelihood

    def _paste(
        self, canvas: TensorCanvas, stream: str, generator: torch.Generator, background: Background, location, name: str
    ) -> Counter | tuple[Instance, Tensor | None, Tensor | None]:
        """Paste one defect; return its record, the weight of its place and its likelihood, or why there is none.

        Args:
            location: tables of the maps and cells of the object; None without learned places.
            name: of the image, for messages.
        """
        engine, policy = self.engine, self.policy
        engine.planner.ranges = ranges = policy.ranges_of(stream)
        if location is not None:
            background = replace(background, density=None)
            table, objects = location
            rows = {c: c - 1 if len(table) > 1 else 0 for c in engine.library.classes}
            values = table.detach().cpu().float().numpy()
            by_row = {row: policy.proposal.density(values[row], objects, name) for row in set(rows.values())}
            engine.densities = {c: by_row[row] for c, row in rows.items()}
        drawn = engine.draw(background, generator)
        self._without_place = 0 if drawn.pastes else self._without_place + 1
        if self._without_place >= self.patience:
            reasons = ', '.join(sorted(drawn.skipped)) or 'no reason'
            raise ValueError(
                f'defects must find a place, but {self._without_place} in a row found none, the last one in {name} '
                f'({reasons}); look at the object masks (`location` of the recipe) and at the learned maps.'
            )
        if not drawn.pastes:
            return drawn.skipped
        paste = drawn.pastes[0]
        at_source = paste.parameters.get('at_source')
        if self.differentiable and policy.raw_ranges.requires_grad and not at_source:
            paste = replace(paste, patch=self._differentiable_patch(paste, ranges))
        instance = engine.write(canvas, paste)
        if instance is None:
            return Counter(invisible=1)
        factor = likelihood = None
        if location is not None and not at_source:
            cells, density = objects.under(paste.mask, paste.corner), engine.densities[paste.class_id]
            factor = policy.proposal.weight(table[rows[paste.class_id]], density, objects, cells)
        if self.differentiable and policy.raw_probabilities.requires_grad:
            log = policy.log_likelihood(stream, applied_operations(paste.parameters))
            likelihood = torch.exp(log - log.detach())
        return instance, factor, likelihood

    def _differentiable_patch(self, paste: Paste, ranges: OperationRanges) -> Tensor:
        """Return the pixels of a sampled defect once more, ``(h, w, 3)``, as a function of the ranges."""
        sampled = operations_from(paste.parameters)
        tensors = sampled.as_tensors()
        low, high = ranges.bounds().unbind(1)
        fixed_low, width = low.detach(), (high - low).detach()
        share = (tensors.values[0] - fixed_low) / width.clamp_min(1e-9)  # what was sampled evenly
        applied = torch.tensor(applied_operations(paste.parameters))[list(COLUMNS)] & (width > 0)
        values = torch.where(applied, low + (high - low) * share, tensors.values[0])
        scale_yx = paste.parameters['fit_y'], paste.parameters['fit_x']
        grow = grown_pixels(self.engine.policy.grow, scale_yx, sampled)
        donor = self.engine.library[paste.donor]
        patch, _, _ = prepare_tensors(donor, scale_yx, replace(tensors, values=values[None]), grow)
        return patch.permute(1, 2, 0)


def applied_operations(parameters: Mapping[str, float]) -> list[bool]:
    """Tell from the record of a paste which of the eight operations were applied: those that changed anything."""
    columns = {name: name if name != 'scale' else 'scale_x' for name in OPERATIONS}
    return [parameters[columns[name]] != NEUTRAL[name] for name in OPERATIONS]
