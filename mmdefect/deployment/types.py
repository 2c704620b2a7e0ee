"""What goes into a prediction and what comes out: the contract of every backend, of the tools and of the server."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy import ndarray

from mmdefect.deployment.decision import check_thresholds
from mmdefect.functional.parts import PartRule, any_region

KINDS = ('segmentation', 'anomaly')


@dataclass(frozen=True)
class ModelInfo:
    """What a model says about itself; travels inside an exported file."""

    classes: tuple[str, ...]  # names, the normal class first
    palette: tuple[tuple[int, int, int], ...]  # RGB of each class
    thresholds: tuple[float, ...]  # one per defect class, see decision.py
    input_size_hw: tuple[int, int] | None = None  # to which the graph itself resizes; None: the network sees the image
    kind: str = 'segmentation'  # or anomaly: one defect class, the thresholded heat map
    name: str = ''  # for logs and pages
    extra: dict[str, Any] = field(default_factory=dict)  # whatever else should travel; JSON values
    part_rule: PartRule | None = None  # which defects reject a part; any if left out

    def __post_init__(self) -> None:
        convert = object.__setattr__
        convert(self, 'classes', tuple(str(c) for c in self.classes))
        convert(self, 'palette', tuple(tuple(int(v) for v in colour) for colour in self.palette))
        convert(self, 'thresholds', check_thresholds(self.thresholds, self.classes))
        if self.input_size_hw is not None:
            convert(self, 'input_size_hw', tuple(int(v) for v in self.input_size_hw))
        count = len(self.classes)
        if not 2 <= count <= 255 or len(set(self.classes)) != count:
            raise ValueError(f'`classes` must be 2 to 255 different names, normal first, got {list(self.classes)}.')
        if len(self.palette) != count:
            raise ValueError(f'`palette` must hold a colour for each of the {count} classes, got {len(self.palette)}.')
        if self.kind not in KINDS:
            raise ValueError(f'`kind` must be one of {KINDS}, got {self.kind!r}.')
        if isinstance(self.part_rule, dict):
            convert(self, 'part_rule', PartRule(**self.part_rule))
        if self.part_rule is not None and len(self.part_rule.min_areas) != count - 1:
            areas = list(self.part_rule.min_areas)
            raise ValueError(f'`part_rule` must have an area for each of {list(self.classes[1:])}, got {areas}.')

    def rejects(self, defects: Sequence[Defect]) -> bool:
        """Whether a part with these defects is defective by the part rule."""
        rule = self.part_rule or any_region(len(self.classes))
        return rule.rejects((d.class_id, d.area_px, d.score) for d in defects)

    def verdict(self) -> str:
        """Return in words which parts are defective."""
        return (self.part_rule or any_region(len(self.classes))).in_words(self.classes)

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelInfo:
        """Read what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Defect:
    """One connected region of a defect class, in pixels of the image as given."""

    class_name: str
    class_id: int  # from 1
    score: float  # mean probability of the class over the region, in [0, 1]
    area_px: int
    area_percent: float  # of the image
    box_xyxy: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded
    centroid_xy: tuple[float, float]  # mean of the pixel centres; the centre of the first pixel is (0, 0)
    length_px: float  # sides of the smallest rectangle, at any angle, that holds the pixels
    width_px: float  # not larger than the length
    length_mm: float | None = None  # the same in millimetres, if the size of a pixel was given
    width_mm: float | None = None
    area_mm2: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; the millimetres only where they are known."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}


@dataclass
class Prediction:
    """What a model says about one image."""

    label_map: ndarray  # (H, W) uint8 class ids at the size of the image; regions below the minimum area are 0
    probabilities: ndarray | None  # (K + 1, H, W) float32 in [0, 1], normal first; None where not asked for
    defects: list[Defect]  # the regions, largest score first
    is_defective: bool  # whether the part rule of the model rejects it; without a rule, whether there is any defect
    image_score: float  # largest probability of any defect class over all pixels, in [0, 1]; needs no threshold


@dataclass(frozen=True)
class PredictOptions:
    """The arguments of :meth:`Predictor.predict_batch` as one value."""

    thresholds: tuple[float, ...]
    min_area_px: int = 0
    mm_per_pixel: float | None = None
    return_probabilities: bool = False


class Predictor(ABC):
    """A loaded model, and a context manager that closes it; see :func:`mmdefect.deployment.load_predictor`."""

    info: ModelInfo

    def predict_batch(
        self,
        images: list[ndarray],
        thresholds: Sequence[float] | None = None,
        min_area_px: int = 0,
        mm_per_pixel: float | None = None,
        return_probabilities: bool = False,
    ) -> list[Prediction]:
        """Predict images of any sizes; return one prediction per image, in order.

        Args:
            images: ``(H, W, 3)`` uint8 RGB each.
            thresholds: one per defect class; those of the model if left out.
            min_area_px: smaller regions are dropped.
            mm_per_pixel: side of a pixel in millimetres.
            return_probabilities: whether the predictions hold probabilities, ``4 (K + 1)`` bytes a pixel.
        """
        chosen = self.info.thresholds if thresholds is None else check_thresholds(thresholds, self.info.classes)
        return self.predict(images, PredictOptions(chosen, min_area_px, mm_per_pixel, return_probabilities))

    @abstractmethod
    def predict(self, images: list[ndarray], options: PredictOptions) -> list[Prediction]:
        """Predict images of any sizes; see :meth:`predict_batch`."""

    @abstractmethod
    def close(self) -> None:
        """Free what the model holds; predicting afterwards is an error."""

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
