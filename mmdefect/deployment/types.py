"""What goes into a prediction and what comes out: the contract of every backend, of the tools and of the server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from numpy import ndarray

KINDS = ('segmentation', 'anomaly')


@dataclass(frozen=True)
class ModelInfo:
    """What a model says about itself; travels inside an exported file.

    Attributes:
        classes: names, the normal class first.
        palette: RGB of each class.
        thresholds: one per defect class, a probability in (0, 1): a pixel goes to class k when the probability of k
            against normal, ``p_k / (p_k + p_0)``, exceeds it (of several such classes the one that exceeds it most, in
            log-odds). 0.5 for all is plain argmax.
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
        if not 2 <= len(self.classes) <= 255 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f'`classes` must be 2 to 255 different names, normal first, got {list(self.classes)}.')
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f'`palette` must hold a colour for each of the {len(self.classes)} classes, got {len(self.palette)}.'
            )
        if self.kind not in KINDS:
            raise ValueError(f'`kind` must be one of {KINDS}, got {self.kind!r}.')

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """Read what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


def check_thresholds(thresholds: Sequence[float], classes: Sequence[str]) -> tuple[float, ...]:
    """Return the thresholds as a tuple, one per defect class.

    Raises:
        ValueError: if there is another number of them, or one is not in (0, 1).
    """
    values = tuple(float(t) for t in thresholds)
    if len(values) != len(classes) - 1 or not all(0 < t < 1 for t in values):
        raise ValueError(
            f'`thresholds` must be {len(classes) - 1} probabilities between 0 and 1, one for each of '
            f'{list(classes[1:])}, got {list(values)}.'
        )
    return values


@dataclass(frozen=True)
class Defect:
    """One connected region of a defect class, in pixels of the image as given.

    Attributes:
        class_name, class_id: of the region; ids start at 1.
        score: mean probability of the class over the region, in [0, 1].
        area_px: number of pixels.
        area_percent: of the image.
        box_xyxy: left, top, right, bottom; right and bottom excluded.
        centroid_xy: mean of the pixel centres; the centre of the first pixel is (0, 0).
        length_px, width_px: sides of the smallest rectangle, at any angle, that holds the pixels; width <= length.
        length_mm, width_mm, area_mm2: the same in millimetres, if their size was given.
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
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value is not None
        }


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


@runtime_checkable
class Predictor(Protocol):
    """A loaded model; see :func:`mmdefect.deployment.load_predictor`."""

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
            return_probabilities: whether the predictions hold probabilities.

        Returns:
            One prediction per image, in order.
        """

    def close(self) -> None:
        """Free what the model holds; predicting afterwards is an error."""
