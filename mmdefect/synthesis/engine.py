"""Paste real defects with exact labels: sample what goes where, then render it.

Sampling runs on the CPU and is small; rendering is deterministic and runs where the image is. One image takes one
generator, so its pixels do not depend on its batch mates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from numpy import ndarray
from torch import Generator, Tensor

from mmdefect.synthesis.library import DefectLibrary
from mmdefect.synthesis.operations import OperationRanges, Operations
from mmdefect.synthesis.places import empirical_density
from mmdefect.synthesis.poisson.membrane import one_blas_thread
from mmdefect.synthesis.policy import PolicySpec
from mmdefect.synthesis.records import Instance, Synthesis, check_generators
from mmdefect.synthesis.render import arrays, tensors
from mmdefect.synthesis.sampler import Background, FittedDonor, Paste, PasteSampler

INVISIBLE = 'invisible'


@dataclass
class SampledBatch:
    """The pastes of a batch of images, before they are written.

    Attributes:
        pastes: of each image.
        skipped: of each image, number of defects that found no place by reason.
        store: pixels of the donors on the device.
    """

    pastes: list[list[Paste]]
    skipped: list[Counter]
    store: Tensor


class PasteEngine:
    """Pastes the defects of a library after a policy. It holds no parameters to learn.

    Loader workers call :meth:`paste` on 8-bit arrays; a batch of tensors goes through the engine itself. Both sample
    the same pastes, and up to rounding make the same pixels.
    """

    def __init__(self, library: DefectLibrary, policy: PolicySpec | Mapping | None = None) -> None:
        self.library = library
        self.policy = policy if isinstance(policy, PolicySpec) else PolicySpec.from_dict(policy or {})
        density = empirical_density(library.density)
        self.sampler = PasteSampler(library, self.policy, {c: density[c] for c in library.classes})
        self.cache = arrays.VariantCache(int(self.policy.variant_megabytes * 2**20))

    def __getstate__(self) -> dict:
        return {**vars(self), 'cache': arrays.VariantCache(self.cache.most_bytes)}

    def paste(
        self, image: ndarray, label: ndarray, background: Background, generator: Generator
    ) -> tuple[list[Instance], Counter]:
        """Paste defects into an 8-bit image, in place.

        Args:
            image: ``(H, W, 3)`` uint8 BGR, or ``(H, W)`` or ``(H, W, 1)`` grey.
            label: ``(H, W)`` integers.
            background: what is known of the image.
            generator: CPU generator of this image.

        Returns:
            The defects that can be seen, and the number of skipped ones by reason.
        """
        with one_blas_thread():
            return self.write(image, label, *self.sample(background, generator))

    def sample(self, background: Background, generator: Generator) -> tuple[list[Paste], Counter]:
        """Sample the defects of one 8-bit image; return them and the number of skipped ones by reason."""
        search, plans = self.sampler.plan(background, generator)
        donors = arrays.fit_donors([plan for plan in plans if not isinstance(plan, str)], self.cache)
        return self.sampler.place_all(search, plans, iter(donors))

    def write(
        self, image: ndarray, label: ndarray, pastes: Sequence[Paste], skipped: Mapping[str, int] | None = None
    ) -> tuple[list[Instance], Counter]:
        """Write pastes into an 8-bit image, in place; see :meth:`paste`. What cannot be seen is skipped."""
        instances, skipped = arrays.write_pastes(image, label, pastes, self.policy), Counter(skipped)
        if len(instances) < len(pastes):
            skipped[INVISIBLE] += len(pastes) - len(instances)
        return instances, skipped

    def fit(self, index: int, scale_yx: tuple[float, float], operations: Operations) -> FittedDonor:
        """Return a donor of the library at a scale (pixels of the image per pixel of the file), with operations."""
        grow = operations.grown_pixels(self.policy.grow, scale_yx)
        return arrays.warp_donor(self.library[index], scale_yx, operations, grow).coloured(operations)

    def replay(self, image: ndarray, label: ndarray, instance: Instance, background: Background) -> Instance | None:
        """Write a recorded defect again, in place: the same pixels on the same image, with the same library.

        Args:
            image: the image as it was before.
            label: its label map.
            instance: the record.
            background: what was known of the image: its location codes, and its label before anything was pasted.
        """
        numbers = instance.parameters
        index, corner = int(numbers['donor']), (int(numbers['top']), int(numbers['left']))
        fitted = self.fit(index, (numbers['fit_y'], numbers['fit_x']), Operations.from_parameters(numbers))
        settled = self.sampler.search(background).settle(fitted.region, corner)
        facts = index, instance.source, instance.class_id, fitted, corner, *settled, instance.blend
        parameters = {name: value for name, value in numbers.items() if name != arrays.LIMITED}
        return next(iter(arrays.write_pastes(image, label, [Paste(*facts, parameters)], self.policy)), None)

    def sample_batch(
        self,
        backgrounds: Sequence[Background],
        generators: Sequence[Generator],
        like: Tensor,
        ranges: Sequence[OperationRanges] | None = None,
        densities: Sequence[Mapping[int, ndarray] | None] | None = None,
    ) -> SampledBatch:
        """Sample the defects of a batch of images.

        Args:
            backgrounds: what is known of each image.
            generators: CPU generator of each image.
            like: dtype and device of the images.
            ranges: of the operations of each image; those of the policy by default. Ranges that require a gradient give
                it to the pixels.
            densities: of places by class, of each image; those of background or library by default.
        """
        nothing = [None] * len(backgrounds)
        images = zip(backgrounds, generators, ranges or nothing, densities or nothing, strict=True)
        sampled = [self.sampler.plan(*image) for image in images]
        plans = [plan for _, own in sampled for plan in own if not isinstance(plan, str)]
        donors, store = tensors.fit_donors(plans, like)
        fitted = iter(donors)
        placed = [self.sampler.place_all(search, own, fitted) for search, own in sampled]
        return SampledBatch([pastes for pastes, _ in placed], [skipped for _, skipped in placed], store)

    def write_batch(self, image: Tensor, label: Tensor, sampled: SampledBatch) -> Synthesis:
        """Write the pastes of a batch into copies of ``(B, C, H, W)`` images and ``(B, H, W)`` int64 labels."""
        image, label = (tensor.clone(memory_format=torch.contiguous_format) for tensor in (image, label))
        instances, unseen = tensors.write_pastes(image, label, sampled.pastes, sampled.store, self.policy)
        skipped = sum(sampled.skipped, Counter())
        if unseen:
            skipped[INVISIBLE] += unseen
        return Synthesis(image, label, instances, dict(skipped))

    def __call__(
        self,
        image: Tensor,
        label: Tensor,
        generator: Generator | Sequence[Generator],
        backgrounds: Background | Sequence[Background] | None = None,
    ) -> Synthesis:
        """Paste defects into an image, or into each image of a batch.

        Args:
            image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB (or one channel).
            label: ``(H, W)`` or ``(B, H, W)`` int64.
            generator: one CPU generator; for a batch one for each sample.
            backgrounds: what is known of each image; its whole frame is object when absent.

        Returns:
            New tensors; ``image`` keeps dtype and device. A sample gets the same whatever its batch mates are.
        """
        if image.dim() == 3:
            made = self(image[None], label[None], [generator], None if backgrounds is None else [backgrounds])
            return Synthesis(made.image[0], made.label[0], made.instances[0], made.skipped)
        generators = check_generators(image, generator)
        backgrounds = backgrounds or [Background(array) for array in label.cpu().numpy()]
        return self.write_batch(image, label, self.sample_batch(backgrounds, generators, image))
