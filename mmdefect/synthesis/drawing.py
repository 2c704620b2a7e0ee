"""The draw of one defect: which donor, which operations, and where it goes."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray

from mmdefect.synthesis.array_fitting import VariantCache, WarpedDonor, warp_donor
from mmdefect.synthesis.augment import OperationRanges
from mmdefect.synthesis.donor_fitting import FittedDonor, middle_of, prepare
from mmdefect.synthesis.donors import DefectLibrary, Donor
from mmdefect.synthesis.drawn_operations import OPERATION_DRAWS, DrawnOperations, draw_operations
from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.location import SIDE
from mmdefect.synthesis.pastes import Background, Paste
from mmdefect.synthesis.placement import PlaceSearch
from mmdefect.synthesis.policy import DonorChoice, DonorChooser, PolicySpec, uniforms
from mmdefect.synthesis.streams import stream_generator

NO_POSE, VANISHED = 'no place on the outline', 'vanished'


@dataclass(frozen=True)
class Plan:
    """What is drawn of a defect before its shape is known.

    Attributes:
        choice: donor, kind of place and blend.
        donor: the donor.
        scale_yx: pixels of the image per pixel of the file.
        operations: what is applied.
        variant: which of the donor's fixed shapes ``operations`` have; ``None``: a shape drawn freshly.
        at_source: whether it goes to its own place in the frame.
        tries: ``(T, 3)`` numbers in [0, 1) for the places to try.
    """

    choice: DonorChoice
    donor: Donor
    scale_yx: tuple[float, float]
    operations: DrawnOperations
    variant: int | None
    at_source: bool
    tries: ndarray


class Planner:
    """Draws defects of a library after a policy.

    Args:
        library: the donors.
        policy: the settings.
    """

    def __init__(self, library: DefectLibrary, policy: PolicySpec) -> None:
        self.library, self.policy = library, policy
        self.chooser = DonorChooser(library, policy)
        self.ranges = OperationRanges(**policy.operations)
        self.source_ranges = OperationRanges(**policy.source_operations)
        self._content = zlib.crc32(json.dumps([library.fingerprints, vars(library.rule)]).encode())
        self.cache = VariantCache(int(policy.variant_megabytes * 2**20))

    def __getstate__(self) -> dict:
        return {**vars(self), 'cache': VariantCache(self.cache.most_bytes)}

    def plan(
        self,
        search: PlaceSearch,
        scale_yx: tuple[float, float],
        file_hw: tuple[int, int] | None,
        generator: torch.Generator,
    ) -> Plan | str:
        """Draw one defect up to its shape, or say why there is none; it takes the same number of draws either way.

        Args:
            search: of the image.
            scale_yx: pixels of the image per pixel of the file.
            file_hw: size of the image in its file, where its codes say how it lies.
            generator: of the image.
        """
        policy = self.policy
        numbers = uniforms(generator, 4 + 4 * policy.tries + OPERATION_DRAWS)
        head, tail = numbers[: 3 + policy.tries].tolist(), 3 + 4 * policy.tries
        scale = math.sqrt(abs(scale_yx[0] * scale_yx[1]))
        choice = self.chooser.choose(head, scale, search.codes.shape, file_hw is not None and search.affine is not None)
        if isinstance(choice, str):
            return choice
        donor = self.library[choice.donor]
        at_source = choice.place == 'source' and donor.source_hw == file_hw
        on_outline = donor.inside < policy.min_inside
        if on_outline and not at_source:
            return NO_POSE
        ranges, variant = self.source_ranges if on_outline else self.ranges, None
        operations = draw_operations(numbers[tail + 1 :], ranges)
        if policy.variants:
            variant = int(numbers[tail] * policy.variants)
            operations = self._variant(choice.donor, variant, ranges).with_colours_of(operations)
        return Plan(
            choice, donor, scale_yx, operations, variant, at_source, numbers[3 + policy.tries : tail].reshape(-1, 3)
        )

    def _variant(self, donor: int, variant: int, ranges: OperationRanges) -> DrawnOperations:
        """Return a fixed shape of a donor: the same in every process, for every image."""
        generator = stream_generator(self._content, 'variant', donor * self.policy.variants + variant)
        return draw_operations(uniforms(generator, OPERATION_DRAWS), ranges)

    def fit(self, plan: Plan, backend: str) -> FittedDonor:
        """Return the donor as it is pasted."""
        if backend == 'torch':
            return prepare(plan.donor, plan.scale_yx, plan.operations, self.policy.grow)
        return self._warped(plan).coloured(plan.operations)

    def _warped(self, plan: Plan) -> WarpedDonor:
        if plan.variant is None:
            return warp_donor(plan.donor, plan.scale_yx, plan.operations, self.policy.grow)
        key = plan.choice.donor, plan.variant, plan.scale_yx
        kept = self.cache.get(key)
        if kept is None:
            kept = warp_donor(plan.donor, plan.scale_yx, plan.operations, self.policy.grow)
            self.cache.put(key, kept)
        return kept

    def place(self, search: PlaceSearch, plan: Plan, fitted: FittedDonor) -> Paste | str:
        """Look for a place for a donor; the search then knows that it is taken."""
        shape, choice, policy, donor = fitted.region, plan.choice, self.policy, plan.donor
        if not shape.any():
            return VANISHED
        if plan.at_source:
            corner = search.draw_near(shape, middle_of(donor), (policy.source_jitter * _normal(plan.tries)).tolist())
        else:
            corner = search.draw(shape, None if choice.place == 'even' else donor.class_id, plan.tries.tolist())
        if isinstance(corner, str):
            return corner
        shape = trimmed(shape, corner, search)
        search.occupy(shape, corner)
        on_outline = donor.inside < policy.min_inside
        parameters = plan.operations.parameters()
        parameters.update(
            donor=float(choice.donor),
            top=float(corner[0]),
            left=float(corner[1]),
            fit_y=float(plan.scale_yx[0]),
            fit_x=float(plan.scale_yx[1]),
        )
        if plan.at_source:
            parameters['at_source'] = 1.0
        return Paste(
            choice.donor,
            donor.class_id,
            corner,
            fitted.patch,
            shape,
            fitted.core,
            policy.outline_blend if on_outline else choice.blend,
            parameters,
            fitted.membrane if shape is fitted.region else None,
            fitted.stored,
        )


def image_scale(background: Background, search: PlaceSearch) -> tuple[float, float]:
    """Return pixels of the image per pixel of its file, down and across; negative where it is flipped."""
    if background.codes is None or background.file_hw is None or search.affine is None:
        return background.scale_yx
    linear = search.affine[:, :2] * (SIDE / background.file_hw[0], SIDE / background.file_hw[1])
    return float(linear[0, 0]), float(linear[1, 1])


def trimmed(mask: ndarray, corner: tuple[int, int], search: PlaceSearch) -> ndarray:
    """Return the mask without what lies off the object or outside of the frame; itself where nothing does."""
    frame, part = overlap(mask.shape, corner, search.codes.shape)
    kept = mask[part] & search.allowed(frame)
    if kept.shape == mask.shape and np.count_nonzero(kept) == np.count_nonzero(mask):
        return mask
    whole = np.zeros_like(mask)
    whole[part] = kept
    return whole


def _normal(tries: ndarray) -> ndarray:
    """Turn rows of uniform numbers into pairs of normal ones (Box and Muller)."""
    radius = np.sqrt(-2 * np.log1p(-tries[:, :1]))
    angle = 2 * np.pi * tries[:, 1:2]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)
