"""What is pasted, how often, and where: a policy is a handful of JSON values, a draw is a handful of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from mmdefect.synthesis.donors import DefectLibrary
from mmdefect.synthesis.shapes import VISIBLE_TOLERANCE
from mmdefect.synthesis.types import BLENDS

PLACES = ('even', 'density', 'source')
LABEL_RULES = ('visible', 'mask')
#: Operations that change colours only.
SAME_SHAPE = dict(
    rotate=[0.0, 0.0],
    shear_x=[0.0, 0.0],
    shear_y=[0.0, 0.0],
    scale=[1.0, 1.0],
    flip_probability=0.0,
    elastic_probability=0.0,
)


@dataclass(frozen=True)
class PolicySpec:
    """The settings of pasting; JSON values only, so a learned policy is a file of these.

    Attributes:
        number: weight of each number of defects in one image, for example ``{1: 2, 2: 1}``.
        class_shares: share of each class among the defects; ``None`` takes each donor as often as any other.
        places: weight of each way to draw a place. ``'even'``: anywhere on the object; ``'density'``: where defects of
            the class were found in training labels, or where a learned map says; ``'source'``: where the donor itself
            was found, for parts that always lie the same way.
        source_jitter: standard deviation, in pixels, of the distance to that place.
        blends: weight of each blend, see :data:`~mmdefect.synthesis.types.BLENDS`.
        outline_blend: blend of donors that were found on the outline of the object and return to it. Poisson blends
            fail there: the outlines of two parts never agree to the pixel, and the step between them bleeds into the
            defect.
        max_boundary_shade: largest departure of the step in brightness between donor and image, at a pixel of the
            outline of a Poisson paste, from the median along the outline; of [0, 1]. What is beyond is limited, see
            :func:`~mmdefect.synthesis.blending.boundary.limit_step`; 2 switches it off.
        max_boundary_cast: the same for the colour of the step.
        operations: settings of :class:`~mmdefect.synthesis.augment.OperationRanges`.
        source_operations: the same for defects that return to their own place on the outline, which another shape would
            not fit.
        variants: so many fixed shapes of each donor, the same in every process, in place of a fresh one each time;
            their warp and their Poisson factor are kept and used again, colours and places stay fresh. 0 draws every
            shape freshly.
        variant_megabytes: memory of what is kept, in each process; the least recently used go first.
        grow: pixels of the donor's file, enlarged with the donor, by which the pasted region exceeds the defect: masks
            often end on the rim of a defect, and the gradients must start on sound surface. At least one pixel of the
            image unless 0.
        min_overlap: fraction of the defect that must lie on the object; the rest of it is not pasted.
        max_existing_overlap: fraction of the defect that may cover defects that are there already.
        clearance: pixels to the outline of the object, except for places of kind ``'source'``.
        min_inside: donors with less of their surroundings on the object are only pasted at places of kind ``'source'``:
            they carry a piece of the background with them.
        max_extent: longest side of a defect as a fraction of the shorter side of the image.
        tries: places and donors that are tried before a defect is skipped and counted.
        tolerance: a pixel that changed by no more than this, of [0, 1], in every channel did not change visibly.
        label: ``'visible'`` labels exactly the pixels that changed visibly; ``'mask'`` adds the pixels that the
            annotator counted as defect with a visible change within ``label_radius`` pixels.
        label_radius: see ``label``.
        min_visible: a defect is skipped and counted when less than this fraction of it changed visibly.
    """

    number: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})
    class_shares: Mapping[int, float] | None = None
    places: Mapping[str, float] = field(default_factory=lambda: {'density': 1.0})
    source_jitter: float = 1.0
    blends: Mapping[str, float] = field(default_factory=lambda: {'poisson': 1.0})
    outline_blend: str = 'feather'
    max_boundary_shade: float = 0.1
    max_boundary_cast: float = 0.02
    operations: Mapping[str, Any] = field(default_factory=dict)
    source_operations: Mapping[str, Any] = field(default_factory=lambda: dict(SAME_SHAPE))
    variants: int = 0
    variant_megabytes: float = 128.0
    grow: int = 2
    min_overlap: float = 0.95
    max_existing_overlap: float = 0.1
    clearance: int = 2
    min_inside: float = 0.95
    max_extent: float = 0.5
    tries: int = 12
    tolerance: float = VISIBLE_TOLERANCE
    label: str = 'visible'
    label_radius: int = 3
    min_visible: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, 'number', {int(k): float(v) for k, v in self.number.items()})
        if self.class_shares is not None:
            object.__setattr__(self, 'class_shares', {int(k): float(v) for k, v in self.class_shares.items()})
        for name, known in (('number', None), ('places', PLACES), ('blends', BLENDS), ('class_shares', None)):
            weights = getattr(self, name)
            if weights is not None:
                _check_weights(name, weights, known)
        for name in ('min_overlap', 'max_existing_overlap', 'min_inside', 'min_visible', 'max_extent'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'`{name}` must be in [0, 1], got {getattr(self, name)}; it is a fraction.')
        if min(self.number) < 0 or self.tries < 1 or min(self.clearance, self.grow) < 0:
            raise ValueError(
                '`number`, `clearance` and `grow` must not be negative and `tries` at least 1, got '
                f'{dict(self.number)}, {self.clearance}, {self.grow} and {self.tries}.'
            )
        if min(self.variants, self.variant_megabytes) < 0:
            raise ValueError(
                '`variants` and `variant_megabytes` must not be negative, got '
                f'{self.variants} and {self.variant_megabytes}; 0 variants draw every shape freshly.'
            )
        if min(self.max_boundary_shade, self.max_boundary_cast) < 0:
            raise ValueError(
                '`max_boundary_shade` and `max_boundary_cast` must not be negative, got '
                f'{self.max_boundary_shade} and {self.max_boundary_cast}; 2 limits nothing.'
            )
        if self.outline_blend not in BLENDS:
            raise ValueError(f'`outline_blend` must be one of {", ".join(BLENDS)}, got {self.outline_blend!r}.')
        if self.label not in LABEL_RULES:
            raise ValueError(f'`label` must be one of {", ".join(LABEL_RULES)}, got {self.label!r}.')

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> PolicySpec:
        """Build it from JSON values.

        Raises:
            ValueError: for an unknown key; the known ones are listed.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(body) - known)
        if unknown:
            raise ValueError(f'a policy must have keys of {", ".join(sorted(known))}, got {unknown}.')
        return cls(**dict(body))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class DonorChoice:
    """The first part of a draw: which defect goes to which kind of place, and how it is composed."""

    donor: int
    place: str
    blend: str


class DonorChooser:
    """Chooses donors of a library after the shares of a policy.

    Raises:
        ValueError: if the policy asks for a class, or a kind of place, that no donor serves.
    """

    def __init__(self, library: DefectLibrary, spec: PolicySpec) -> None:
        self.spec, self.library = spec, library
        class_ids, inside = library.table['class_id'], library.table['inside'] >= spec.min_inside
        self.members = {
            (c, place): np.flatnonzero((class_ids == c) & (inside | (place == 'source')))
            for c in library.classes
            for place in PLACES
        }
        shares = spec.class_shares
        if shares is None:
            usable = {
                c: len(self.members[c, 'source' if spec.places.get('source', 0) > 0 else 'even'])
                for c in library.classes
            }
            shares = {c: float(n) for c, n in usable.items() if n}
            if not shares:
                raise ValueError(
                    f'at least one donor must have {spec.min_inside:.0%} of its surroundings on the '
                    f'object, but none of {len(library)} has; lower `min_inside`, or give `places` weight '
                    "for 'source'."
                )
        absent = [c for c, share in shares.items() if share > 0 and c not in library.classes]
        if absent:
            raise ValueError(
                f'`class_shares` must name classes that have donors, {library.classes}, got {absent}; '
                'label some in the training split, or take them out.'
            )
        self.class_ids, self.class_bounds = _cumulate(shares)
        self.places, self.place_bounds = _cumulate(spec.places)
        self.blends, self.blend_bounds = _cumulate(spec.blends)
        self.numbers, self.number_bounds = _cumulate(spec.number)
        margin = 2 * library.rule.margin
        self.extents = np.maximum(library.table['height'], library.table['width']) - margin

    def choose_number(self, uniform: float) -> int:
        """Return how many defects an image gets."""
        return _pick(self.numbers, self.number_bounds, uniform)

    def choose(
        self, uniforms: Sequence[float], scale: float, size_hw: tuple[int, int], fixed_pose: bool
    ) -> DonorChoice | str:
        """Choose class, kind of place, donor and blend.

        A class without a donor for the drawn kind of place goes to one of the other kind: the shares of classes hold
        before those of places.

        Args:
            uniforms: three numbers in [0, 1), and one more for every donor to try.
            scale: pixels of this image per pixel of the file.
            size_hw: size of the image.
            fixed_pose: whether the place of a donor in its own frame can be found in this image.
        """
        class_id = _pick(self.class_ids, self.class_bounds, uniforms[0])
        place = _pick(self.places, self.place_bounds, uniforms[1])
        if place == 'source' and not fixed_pose:
            place = 'density'
        if len(self.members[class_id, place]) == 0 and fixed_pose and self.spec.places.get('source', 0) > 0:
            place = 'source'
        members = self.members[class_id, place]
        if len(members) == 0:
            return 'no donor for this place'
        limit = self.spec.max_extent * min(size_hw)
        for uniform in uniforms[3:]:
            donor = int(members[int(uniform * len(members))])
            if self.extents[donor] * scale <= limit:
                return DonorChoice(donor, place, _pick(self.blends, self.blend_bounds, uniforms[2]))
        return 'too large'


def uniforms(generator: torch.Generator, count: int) -> ndarray:
    """Draw numbers in [0, 1): ``(count,)`` float64."""
    return torch.rand(count, generator=generator, dtype=torch.float64).numpy()


def _check_weights(name: str, weights: Mapping, known: Sequence[str] | None) -> None:
    if known is not None and not set(weights) <= set(known):
        raise ValueError(f'`{name}` must have keys of {", ".join(known)}, got {sorted(set(weights) - set(known))}.')
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f'`{name}` must give weights >= 0 that are not all 0, got {dict(weights)}.')


def _cumulate(weights: Mapping[Any, float]) -> tuple[list, list[float]]:
    keys = [k for k, w in weights.items() if w > 0]
    bounds = np.cumsum([weights[k] for k in keys])
    return keys, (bounds / bounds[-1]).tolist()


def _pick(keys: list, bounds: list[float], uniform: float) -> Any:
    for key, bound in zip(keys, bounds, strict=True):
        if uniform < bound:
            return key
    return keys[-1]
