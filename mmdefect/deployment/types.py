"""What goes into a prediction and what comes out: the contract of every backend, of the tools and of the server."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy import ndarray

from mmdefect.deployment.decision import check_thresholds

KINDS = ('segmentation', 'anomaly')


@dataclass(frozen=True)
class ModelInfo:
    """What a model says about itself; travels inside an exported file.

    Attributes:
        classes: names, the normal class first.
        palette: RGB of each class.
        thresholds: one per defect class, see :mod:`mmdefect.deployment.decision`.
        input_size_hw: size that the network sees, to which the graph itself resizes; ``None``: that of the image.
        kind: ``segmentation``, or ``anomaly`` (one defect class: the thresholded heat map).
        name: of the model, for logs and pages.
        extra: whatever else should travel; JSON values.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    thresholds: tuple[float, ...]
    input_size_hw: tuple[int, int] | None = None
    kind: str = 'segmentation'
    name: str = ''
    extra: dict[str, Any] = field(default_factory=dict)

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

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelInfo:
        """Read what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Defect:
    """One connected region of a defect class, in pixels of the image as given.

    Attributes:
        class_name, class_id: of the region; ids start at 1.
        score: mean probability of the class over the region, in [0, 1].
        area_px, area_percent: number of pixels, and their share of the image.
        box_xyxy: left, top, right, bottom; right and bottom excluded.
        centroid_xy: mean of the pixel centres; the centre of the first pixel is (0, 0).
        length_px, width_px: sides of the smallest rectangle, at any angle, that holds the pixels; width <= length.
        length_mm, width_mm, area_mm2: the same in millimetres, if the size of a pixel was given.
    """

    class_name: str
    class_id: int
    score: float
    area_px: int
    area_percent: float
    box_xyxy: tuple[int, int, int, int]
    centroid_xy: tuple[float, float]
    length_px: float
    width_px: float
    length_mm: float | None = None
    width_mm: float | None = None
    area_mm2: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; the millimetres only where they are known."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}


@dataclass
class Prediction:
    """What a model says about one image.

    Attributes:
        label_map: ``(H, W)`` uint8 class ids at the size of the image; regions below the minimum area are 0.
        probabilities: ``(K + 1, H, W)`` float32 in [0, 1], normal first, or ``None`` where they were not asked for.
        defects: the regions, largest score first.
        is_defective: whether there is any.
        image_score: largest probability of any defect class over all pixels, in [0, 1]; needs no threshold.
    """

    label_map: ndarray
    probabilities: ndarray | None
    defects: list[Defect]
    is_defective: bool
    image_score: float


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
        """Predict images of any sizes.

        Args:
            images: ``(H, W, 3)`` uint8 RGB each.
            thresholds: one per defect class; those of the model if left out.
            min_area_px: smaller regions are dropped.
            mm_per_pixel: side of a pixel in millimetres.
            return_probabilities: whether the predictions hold probabilities, ``4 (K + 1)`` bytes a pixel.

        Returns:
            One prediction per image, in order.
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
