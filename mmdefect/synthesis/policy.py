"""The settings of pasting: what is pasted, how often, where, and how it is labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mmdefect.synthesis.records import BLENDS, VISIBLE_TOLERANCE

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
        places: weight of each kind of place. ``'even'``: anywhere on the object; ``'density'``: where defects of
            the class were found in training labels, or where a learned map says; ``'source'``: where the donor itself
            was found, for parts that always lie the same way.
        source_jitter: standard deviation, in pixels, of the distance to that place.
        blends: weight of each blend, see :data:`~mmdefect.synthesis.records.BLENDS`.
        outline_blend: blend of donors that were found on the outline of the object and return to it. Poisson blends
            fail there: the outlines of two parts never agree to the pixel, and the step between them bleeds into the
            defect.
        max_boundary_shade: largest departure of the step in brightness between donor and image, at a pixel of the
            outline of a Poisson paste, from the median along the outline; of [0, 1]. What is beyond is limited, see
            :func:`~mmdefect.synthesis.poisson.membrane.limit_step`; 2 switches it off.
        max_boundary_cast: the same for the colour of the step.
        operations: settings of :class:`~mmdefect.synthesis.operations.OperationRanges`.
        source_operations: the same for defects that return to their own place on the outline, which another shape would
            not fit.
        variants: number of fixed shapes of each donor, the same in every process, in place of a fresh one each time;
            their warp and their Poisson factor are kept and used again, colours and places stay fresh. With 0 every
            shape is fresh.
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
        at_least = dict(tries=1, clearance=0, grow=0, variants=0, variant_megabytes=0)
        at_least |= dict(max_boundary_shade=0, max_boundary_cast=0)
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f'`{name}` must be at least {least}, got {getattr(self, name)}.')
        if min(self.number) < 0:
            raise ValueError(f'`number` must name numbers of defects, none negative, got {dict(self.number)}.')
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


def _check_weights(name: str, weights: Mapping, known: Sequence[str] | None) -> None:
    if known is not None and not set(weights) <= set(known):
        raise ValueError(f'`{name}` must have keys of {", ".join(known)}, got {sorted(set(weights) - set(known))}.')
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f'`{name}` must give weights >= 0 that are not all 0, got {dict(weights)}.')
