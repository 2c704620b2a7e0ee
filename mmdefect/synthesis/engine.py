"""Paste real defects: draw where each goes, then write them into the image with exact labels.

The draw runs on the CPU and is small; applying it is deterministic and runs where the image is. One image takes one
generator, so its pixels do not depend on its batch mates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmdefect.synthesis.array_fitting import warp_donor
from mmdefect.synthesis.array_writing import write_arrays
from mmdefect.synthesis.batch_fitting import fit_batch
from mmdefect.synthesis.batch_writing import write_batch
from mmdefect.synthesis.canvas import ArrayCanvas, TensorCanvas
from mmdefect.synthesis.donor_fitting import prepare
from mmdefect.synthesis.donors import DefectLibrary
from mmdefect.synthesis.drawing import NO_POSE, VANISHED, Plan, Planner, image_scale, trimmed
from mmdefect.synthesis.drawn_operations import operations_from
from mmdefect.synthesis.location import empirical_density, location_codes
from mmdefect.synthesis.pastes import LIMITED, Background, Draw, Paste
from mmdefect.synthesis.placement import PlaceSearch
from mmdefect.synthesis.policy import PolicySpec, uniforms
from mmdefect.synthesis.tensor_writing import write_tensors
from mmdefect.synthesis.types import Instance, Synthesis

__all__ = ['INVISIBLE', 'LIMITED', 'NO_POSE', 'VANISHED', 'Background', 'Draw', 'Paste', 'PasteEngine']

BACKENDS = ('torch', 'numpy')
INVISIBLE = 'invisible'


class PasteEngine:
    """Pastes the defects of a library after a policy. It holds no parameters to learn and no state that changes.

    ``backend`` of its methods is 'torch', for images on any device, or 'numpy', for 8-bit images
    (:class:`ArrayCanvas`) on the CPU: the same draws, and up to rounding the same pixels, in less time.

    Args:
        library: the donors.
        policy: the settings.
        density_smoothing: see :func:`~mmdefect.synthesis.location.empirical_density`.
    """

    def __init__(
        self, library: DefectLibrary, policy: PolicySpec | Mapping = PolicySpec(), density_smoothing: float = 1.0
    ) -> None:
        self.library = library
        self.policy = policy if isinstance(policy, PolicySpec) else PolicySpec.from_dict(policy)
        self.planner = Planner(library, self.policy)
        density = empirical_density(library.density, density_smoothing)
        self.densities = {c: density[c] for c in library.classes}

    def draw(self, background: Background, generator: torch.Generator, backend: str = 'torch') -> Draw:
        """Draw the defects of one image.

        Args:
            background: the image, without its pixels.
            generator: CPU generator of this image.
            backend: how patches are warped, see the class.

        Raises:
            ValueError: if the backend is unknown.
        """
        if backend not in BACKENDS:
            raise ValueError(f'`backend` must be one of {", ".join(BACKENDS)}, got {backend!r}.')
        drawn = Draw()
        search, plans = self._plan(background, generator)
        for plan in plans:
            result = plan
            if not isinstance(plan, str):
                result = self.planner.place(search, plan, self.planner.fit(plan, backend))
            if isinstance(result, str):
                drawn.skipped[result] += 1
            else:
                drawn.pastes.append(result)
        return drawn

    def _plan(self, background: Background, generator: torch.Generator) -> tuple[PlaceSearch | None, list[Plan | str]]:
        """Draw everything but the places; their search is ``None`` when there is nothing to place."""
        count = self.planner.chooser.choose_number(float(uniforms(generator, 1)[0]))
        if not count:
            return None, []
        search = self.search(background)
        scale_yx = image_scale(background, search)
        return search, [self.planner.plan(search, scale_yx, background.file_hw, generator) for _ in range(count)]

    def search(self, background: Background) -> PlaceSearch:
        """Return the search of places in one image."""
        policy, label = self.policy, background.label
        codes = location_codes(label.shape) if background.codes is None else background.codes
        densities, learned = self.densities, background.density
        if learned is not None:
            densities = {c: learned if learned.ndim == 2 else learned[c] for c in self.library.classes}
        return PlaceSearch(codes, label, densities, policy.min_overlap, policy.max_existing_overlap, policy.clearance)

    def apply(
        self, canvas: ArrayCanvas | TensorCanvas, draw: Draw, backend: str = 'torch'
    ) -> tuple[list[Instance], Counter]:
        """Write drawn defects into an image and its label map.

        Returns:
            The defects that can be seen, and the number of skipped ones by reason.
        """
        instances, skipped = [], Counter(draw.skipped)
        for paste in draw.pastes:
            written = self.write(canvas, paste, backend)
            if written is None:
                skipped[INVISIBLE] += 1
            else:
                instances.append(written)
        return instances, skipped

    def __call__(
        self,
        image: Tensor,
        label: Tensor,
        generator: torch.Generator | Sequence[torch.Generator],
        backgrounds: Background | Sequence[Background] | None = None,
    ) -> Synthesis:
        """Paste defects into an image, or into each image of a batch.

        Args:
            image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB (or one channel).
            label: ``(H, W)`` or ``(B, H, W)`` int64.
            generator: one CPU generator; for a batch one for each sample.
            backgrounds: what is known of each image; its whole frame is object when absent.

        Returns:
            New tensors; ``image`` keeps dtype and device. A batch is warped, blended and written together; a sample
            gets the same whatever its batch mates are, and up to rounding what it gets alone.
        """
        if image.dim() == 4:
            return self._batch(image, label, generator, backgrounds)
        known = backgrounds or Background(label.cpu().numpy())
        canvas = TensorCanvas(image, label)
        instances, skipped = self.apply(canvas, self.draw(known, generator))
        return Synthesis(canvas.image, canvas.label, instances, skipped=dict(skipped))

    def replay(
        self, canvas: ArrayCanvas | TensorCanvas, instance: Instance, background: Background, backend: str = 'torch'
    ) -> Instance | None:
        """Write a recorded defect again: the same pixels on the same image, with the same library.

        Args:
            canvas: the image as it was before.
            instance: the record.
            background: what the draw knew of the image: its location codes, and its label before anything was pasted.
            backend: that of the draw.
        """
        numbers = instance.parameters
        donor, scale_yx = int(numbers['donor']), (numbers['fit_y'], numbers['fit_x'])
        operations, grow = operations_from(numbers), self.policy.grow
        if backend == 'numpy':
            fitted = warp_donor(self.library[donor], scale_yx, operations, grow).coloured(operations)
        else:
            fitted = prepare(self.library[donor], scale_yx, operations, grow)
        corner = int(numbers['top']), int(numbers['left'])
        mask = trimmed(fitted.region, corner, self.search(background))
        return self.write(
            canvas,
            Paste(donor, instance.class_id, corner, fitted.patch, mask, fitted.core, instance.blend, dict(numbers)),
            backend,
        )

    def write(self, canvas: ArrayCanvas | TensorCanvas, paste: Paste, backend: str = 'torch') -> Instance | None:
        """Write one drawn defect; ``None`` when too little of it can be seen, and then nothing is changed."""
        write = write_arrays if backend == 'numpy' else write_tensors
        return write(canvas, paste, self.policy, self.library.source_of(paste.donor))

    def _batch(
        self,
        image: Tensor,
        label: Tensor,
        generators: Sequence[torch.Generator],
        backgrounds: Sequence[Background] | None,
    ) -> Synthesis:
        if len(generators) != len(image):
            raise ValueError(
                f'`generator` must hold one generator for each sample, got {len(generators)} for '
                f'{len(image)}; with a shared one batch mates would change a sample.'
            )
        known = backgrounds or [Background(array) for array in label.cpu().numpy()]
        plans, owners, searches, skipped = [], [], [], Counter()
        for row, (background, generator) in enumerate(zip(known, generators, strict=True)):
            search, own = self._plan(background, generator)
            searches.append(search)
            for plan in own:
                if isinstance(plan, str):
                    skipped[plan] += 1
                else:
                    plans.append(plan)
                    owners.append(row)
        fitted, store = fit_batch(plans, self.policy.grow, image.device)
        pastes: list[list[Paste]] = [[] for _ in known]
        for row, plan, donor in zip(owners, plans, fitted, strict=True):
            paste = self.planner.place(searches[row], plan, donor)
            if isinstance(paste, str):
                skipped[paste] += 1
            else:
                pastes[row].append(paste)
        new_image = image.clone(memory_format=torch.contiguous_format)
        new_label = label.clone(memory_format=torch.contiguous_format)
        instances, unseen = write_batch(new_image, new_label, pastes, store, self.policy, self.library.source_of)
        if unseen:
            skipped[INVISIBLE] += unseen
        return Synthesis(new_image, new_label, instances, skipped=dict(skipped))
