"""What is sampled for the pastes of one image: donors, operations, places and blends.

It runs on the CPU and is small; rendering it is deterministic. One image takes one generator, and as many numbers of it
whatever becomes of them, so an image does not depend on its batch mates. First a :class:`Plan` is made of each defect;
the renderer then says which shape the donor gets; with it a place is looked for, which makes a :class:`Paste`.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from mmdefect.synthesis.library import DefectLibrary, Donor
from mmdefect.synthesis.operations import NUM_UNIFORMS, OperationRanges, Operations, sample_operations, with_colours_of
from mmdefect.synthesis.places import SIDE, PlaceSearch, Window, location_codes
from mmdefect.synthesis.policy import PLACES, PolicySpec
from mmdefect.synthesis.streams import stream_generator

#: Why a defect was skipped; :class:`PlaceSearch` has further reasons.
NO_POSE, VANISHED, NO_DONOR, TOO_LARGE = 'no place on the outline', 'vanished', 'no donor for this place', 'too large'


@dataclass
class Background:
    """What must be known of an image to paste into it.

    Attributes:
        label: ``(H, W)`` integers on the CPU: 0 normal, 1..K defects, 255 ignore.
        codes: ``(H, W)`` float32 location codes; without them the whole frame is object and has no fixed pose.
        file_hw: height and width of the image in its file; needed with ``codes``.
        scale_yx: pixels of this image per pixel of the file, when there are no ``codes``.
        density: ``(GRID, GRID)`` learned density of this image, or ``(K + 1, GRID, GRID)`` with one for each class;
            takes the place of the one found in training labels.
    """

    label: ndarray
    codes: ndarray | None = None
    file_hw: tuple[int, int] | None = None
    scale_yx: tuple[float, float] = (1.0, 1.0)
    density: ndarray | None = None

    @classmethod
    def of(cls, label: ndarray, codes: ndarray | None, facts: Mapping[str, Any]) -> Background:
        """Return it from keys of a pipeline: ``scale_factor`` (across, down), ``ori_shape``, ``location_density``."""
        factor = facts.get('scale_factor') or (1.0, 1.0)
        factor = (factor, factor) if isinstance(factor, (int, float)) else factor
        file_hw = tuple(facts['ori_shape'][:2]) if codes is not None and 'ori_shape' in facts else None
        return cls(label, codes, file_hw, (float(factor[1]), float(factor[0])), facts.get('location_density'))


@dataclass(frozen=True)
class Plan:
    """What is sampled of a defect before its shape is known.

    ``index`` is that of the donor in the library; ``place`` one of ``PLACES``, where ``'source'`` is its own place in
    the frame; ``scale_yx`` pixels of the image per pixel of the file, negative where it is flipped;
    ``ranges`` what the operations were sampled from; ``grow`` by how many pixels the pasted region exceeds the defect;
    ``variant`` which of the donor's fixed shapes it has, ``None`` for a fresh one; ``tries`` ``(T, 3)`` numbers in
    [0, 1) for the places to try; ``parameters`` the numbers that make patch and mask again.
    """

    index: int
    donor: Donor
    place: str
    blend: str
    scale_yx: tuple[float, float]
    operations: Operations
    ranges: OperationRanges
    grow: int
    variant: int | None
    tries: ndarray
    parameters: dict[str, float]


@dataclass(frozen=True)
class FittedDonor:
    """A donor in the scale and shape in which it is pasted, with a ring of one pixel around the region.

    Attributes:
        core: ``(h, w)`` bool, the defect.
        region: ``(h, w)`` bool, what is pasted: the defect and what is grown around it that shows the object.
        patch: ``(h, w, 3)`` float32 in [0, 1], BGR; ``None`` when the pixels stay on a device.
        membrane: of the region, where it was made.
        stored: where the pixels lie on the device, see :mod:`mmdefect.synthesis.render.tensors`.
    """

    core: ndarray
    region: ndarray
    patch: ndarray | None = None
    membrane: Any = None
    stored: Any = None


@dataclass(frozen=True)
class Paste:
    """One sampled defect, ready to be written.

    ``donor`` is its index in the library, ``source`` the image it was cut from; ``corner`` row and column of the patch
    in the image; ``mask`` ``(h, w)`` bool, the region as far as it is allowed there; ``frame`` the part of the image
    that the patch covers, ``part`` the part of the patch that lies in the image.
    """

    donor: int
    source: str
    class_id: int
    fitted: FittedDonor
    corner: tuple[int, int]
    mask: ndarray
    frame: Window
    part: Window
    blend: str
    parameters: dict[str, float]


class PasteSampler:
    """Samples pastes of the defects of a library after a policy; ``densities`` are ``(GRID, GRID)`` by class.

    Raises:
        ValueError: if the policy asks for a class, or a kind of place, that no donor serves.
    """

    def __init__(self, library: DefectLibrary, policy: PolicySpec, densities: Mapping[int, ndarray]) -> None:
        self.library, self.policy, self.densities = library, policy, densities
        self.ranges = OperationRanges(**policy.operations)
        self.source_ranges = OperationRanges(**policy.source_operations)
        self._content = zlib.crc32(json.dumps([library.fingerprints, vars(library.rule)]).encode())
        class_ids, inside = library.table['class_id'], library.table['inside'] >= policy.min_inside
        self.members = {
            (c, place): np.flatnonzero((class_ids == c) & (inside | (place == 'source')))
            for c in library.classes
            for place in PLACES
        }
        shares = policy.class_shares
        if shares is None:
            widest = 'source' if policy.places.get('source', 0) > 0 else 'even'
            shares = {c: float(len(self.members[c, widest])) for c in library.classes if len(self.members[c, widest])}
            if not shares:
                raise ValueError(
                    f'a donor must have {policy.min_inside:.0%} of its surroundings on the object, but none of '
                    f"{len(library)} has; lower `min_inside`, or give `places` weight for 'source'."
                )
        absent = [c for c, share in shares.items() if share > 0 and c not in library.classes]
        if absent:
            raise ValueError(f'`class_shares` must name classes that have donors, {library.classes}, got {absent}.')
        self._classes, self._places, self._blends, self._numbers = map(
            _cumulated, (shares, policy.places, policy.blends, policy.number)
        )
        self._extents = library.extents

    def search(self, background: Background, densities: Mapping[int, ndarray] | None = None) -> PlaceSearch:
        """Return the search of places in one image."""
        policy, learned = self.policy, background.density
        codes = location_codes(background.label.shape) if background.codes is None else background.codes
        if densities is None:
            densities = self.densities
            if learned is not None:
                densities = {c: learned if learned.ndim == 2 else learned[c] for c in self.library.classes}
        overlaps = policy.min_overlap, policy.max_existing_overlap
        return PlaceSearch(codes, background.label, densities, *overlaps, policy.clearance)

    def plan(
        self,
        background: Background,
        generator: torch.Generator,
        ranges: OperationRanges | None = None,
        densities: Mapping[int, ndarray] | None = None,
    ) -> tuple[PlaceSearch | None, list[Plan | str]]:
        """Sample everything but the places; return their search, if there are any, and a plan or a reason each.

        Ranges of the operations are those of the policy by default, densities of places by class those of the
        background or the library.
        """
        count = _pick(self._numbers, float(uniforms(generator, 1)[0]))
        if not count:
            return None, []
        search = self.search(background, densities)
        scale_yx, file_hw = background.scale_yx, background.file_hw
        fixed_pose = file_hw is not None and search.affine is not None
        if fixed_pose and background.codes is not None:
            linear = search.affine[:, :2] * (SIDE / file_hw[0], SIDE / file_hw[1])
            scale_yx = float(linear[0, 0]), float(linear[1, 1])
        ranges = ranges or self.ranges
        size_hw = background.label.shape
        return search, [self._plan_one(generator, scale_yx, file_hw, size_hw, fixed_pose, ranges) for _ in range(count)]

    def _plan_one(
        self,
        generator: torch.Generator,
        scale_yx: tuple[float, float],
        file_hw: tuple[int, int] | None,
        size_hw: tuple[int, int],
        fixed_pose: bool,
        ranges: OperationRanges,
    ) -> Plan | str:
        policy = self.policy
        numbers, tail = uniforms(generator, 4 + 4 * policy.tries + NUM_UNIFORMS), 3 + 4 * policy.tries
        scale = math.sqrt(abs(scale_yx[0] * scale_yx[1]))
        chosen = self.choose(numbers[: 3 + policy.tries].tolist(), scale, size_hw, fixed_pose)
        if isinstance(chosen, str):
            return chosen
        index, place, blend = chosen
        donor = self.library[index]
        if place == 'source' and donor.source_hw != file_hw:
            place = 'density'
        on_outline, variant = donor.inside < policy.min_inside, None
        if on_outline:
            if place != 'source':
                return NO_POSE
            ranges, blend = self.source_ranges, policy.outline_blend
        shape = numbers[tail + 1 :]
        if policy.variants:
            variant = int(numbers[tail] * policy.variants)
            fixed = stream_generator(self._content, 'variant', index * policy.variants + variant)
            shape = with_colours_of(uniforms(fixed, NUM_UNIFORMS), shape)
        operations = sample_operations(shape, ranges)
        parameters = operations.parameters()
        parameters.update(donor=float(index), fit_y=float(scale_yx[0]), fit_x=float(scale_yx[1]))
        if place == 'source':
            parameters['at_source'] = 1.0
        grow, tries = operations.grown_pixels(policy.grow, scale_yx), numbers[3 + policy.tries : tail].reshape(-1, 3)
        return Plan(index, donor, place, blend, scale_yx, operations, ranges, grow, variant, tries, parameters)

    def choose(
        self, numbers: Sequence[float], scale: float, size_hw: tuple[int, int], fixed_pose: bool
    ) -> tuple[int, str, str] | str:
        """Choose donor, kind of place and blend by three numbers in [0, 1), and one more for every donor to try.

        A class without a donor for the sampled kind of place goes to one of the other kind: the shares of classes hold
        before those of places. With ``fixed_pose`` the place of a donor in its own frame can be found in this image.
        """
        class_id, place = _pick(self._classes, numbers[0]), _pick(self._places, numbers[1])
        if place == 'source' and not fixed_pose:
            place = 'density'
        if len(self.members[class_id, place]) == 0 and fixed_pose and self.policy.places.get('source', 0) > 0:
            place = 'source'
        members = self.members[class_id, place]
        if len(members) == 0:
            return NO_DONOR
        limit = self.policy.max_extent * min(size_hw)
        for number in numbers[3:]:
            donor = int(members[int(number * len(members))])
            if self._extents[donor] * scale <= limit:
                return donor, place, _pick(self._blends, numbers[2])
        return TOO_LARGE

    def place_all(
        self, search: PlaceSearch | None, plans: Sequence[Plan | str], fitted: Iterator[FittedDonor]
    ) -> tuple[list[Paste], Counter]:
        """Look for places of the defects of one image, in their order; return also the skipped ones by reason."""
        pastes, skipped = [], Counter()
        for plan in plans:
            paste = plan if isinstance(plan, str) else self.place(search, plan, next(fitted))
            if isinstance(paste, str):
                skipped[paste] += 1
            else:
                pastes.append(paste)
        return pastes, skipped

    def place(self, search: PlaceSearch, plan: Plan, fitted: FittedDonor) -> Paste | str:
        """Look for a place for a donor; the search then knows that it is taken."""
        donor, region = plan.donor, fitted.region
        if not region.any():
            return VANISHED
        if plan.place == 'source':
            middle = [
                (start + length / 2) / whole
                for start, length, whole in zip(donor.top_left_rc, donor.mask.shape, donor.source_hw, strict=True)
            ]
            corner = search.find_near(region, middle, (self.policy.source_jitter * _normal(plan.tries)).tolist())
        else:
            corner = search.find(region, None if plan.place == 'even' else donor.class_id, plan.tries)
        if isinstance(corner, str):
            return corner
        mask, frame, part = search.settle(region, corner)
        parameters = {**plan.parameters, 'top': float(corner[0]), 'left': float(corner[1])}
        facts = plan.index, donor.source, donor.class_id, fitted
        return Paste(*facts, corner, mask, frame, part, plan.blend, parameters)


def uniforms(generator: torch.Generator, count: int) -> ndarray:
    """Return numbers in [0, 1): ``(count,)`` float64."""
    return torch.rand(count, generator=generator, dtype=torch.float64).numpy()


def _normal(tries: ndarray) -> ndarray:
    """Turn rows of uniform numbers into pairs of normal ones (Box and Muller)."""
    radius = np.sqrt(-2 * np.log1p(-tries[:, :1]))
    angle = 2 * np.pi * tries[:, 1:2]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _cumulated(weights: Mapping[Any, float]) -> tuple[list, list[float]]:
    keys = [k for k, w in weights.items() if w > 0]
    bounds = np.cumsum([weights[k] for k in keys])
    return keys, (bounds / bounds[-1]).tolist()


def _pick(cumulated: tuple[list, list[float]], uniform: float) -> Any:
    keys, bounds = cumulated
    return next((key for key, bound in zip(keys, bounds, strict=True) if uniform < bound), keys[-1])
