"""What every generator of defects returns: the image, its exact label and the record of what was pasted."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

NORMAL_CLASS = 0
IGNORE_LABEL = 255

GENERATORS = ('cutpaste-normal', 'cutpaste-scar', 'paste', 'perlin')
BLENDS = ('alpha', 'feather', 'poisson', 'poisson-mixed', 'spectral')


@dataclass(frozen=True)
class Instance:
    """One pasted defect: enough to draw it, to audit it and to make it again.

    Attributes:
        class_id: defect class, 1..K.
        box: top, left, bottom, right of the labelled pixels in the image; bottom and right are exclusive.
        area: number of labelled pixels.
        source: id of the donor, of the texture, or of the part of the background that was copied.
        generator: one of ``GENERATORS``.
        blend: one of ``BLENDS``.
        parameters: what was drawn, enough to replay it.
    """

    class_id: int
    box: tuple[int, int, int, int]
    area: int
    source: str
    generator: str
    blend: str
    parameters: dict[str, float]

    def __post_init__(self) -> None:
        top, left, bottom, right = self.box
        if not 1 <= self.class_id < IGNORE_LABEL:
            raise ValueError(
                f'`class_id` must be in 1..{IGNORE_LABEL - 1}, got {self.class_id}. '
                'Normal pixels and ignored pixels are no instances.'
            )
        if not (0 <= top < bottom and 0 <= left < right):
            raise ValueError(
                f'`box` must be (top, left, bottom, right) with 0 <= top < bottom and 0 <= left < right, '
                f'got {self.box}. Skip and count a defect that has no visible pixel.'
            )
        if not 1 <= self.area <= (bottom - top) * (right - left):
            raise ValueError(
                f'`area` must be between 1 and the {(bottom - top) * (right - left)} pixels of `box`, '
                f'got {self.area}. It counts labelled pixels.'
            )
        if self.generator not in GENERATORS:
            raise ValueError(f'`generator` must be one of {", ".join(GENERATORS)}, got {self.generator!r}.')
        if self.blend not in BLENDS:
            raise ValueError(f'`blend` must be one of {", ".join(BLENDS)}, got {self.blend!r}.')


@dataclass
class Synthesis:
    """A sample, or a batch, with synthetic defects in it.

    Attributes:
        image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB; dtype of the input.
        label: ``(H, W)`` or ``(B, H, W)`` int64; 0 normal, 1..K defect classes, 255 ignore.
        instances: list of :class:`Instance`; for a batch one such list per sample.
        weight: ``(H, W)`` or ``(B, H, W)`` float in [0, 1], how much a pixel counts; None: every pixel fully.
        skipped: reason to number of defects that were drawn but not pasted; a skip is never silent.
    """

    image: Tensor
    label: Tensor
    instances: list
    weight: Tensor | None = None
    skipped: dict[str, int] = field(default_factory=dict)
