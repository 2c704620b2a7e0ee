"""Open a model of any form, and predict batches of images with it; exported files run on ONNX Runtime.

An exported graph takes ``images``, ``(N, H, W, 3)`` uint8 RGB, and ``thresholds``, ``(K,)`` float32 (by default those
of the model), and returns ``labels`` and ``probabilities``. What the model is stands in the metadata of the file under
``mmdefect``. The backends of PyTorch are in ``mmdefect/inference/predictor.py``.
"""

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from mmdefect.deployment.defects import find_defects
from mmdefect.deployment.types import ModelInfo, Prediction, PredictOptions, Predictor
from mmdefect.extras import require

METADATA_KEY = 'mmdefect'
#: Options of an .onnx file, and of everything that PyTorch opens.
RUNTIME_OPTIONS, TORCH_OPTIONS = ('threads', 'providers'), ('config', 'device')


def load_predictor(model_path: str | Path, **options: Any) -> Predictor:
    """Open a model.

    Args:
        model_path: an exported ``.onnx`` file, which runs on ONNX Runtime without PyTorch; or what needs PyTorch: an
            exported ``.pt`` or ``.pt2`` file, a checkpoint, or a fitted anomaly detector.
        **options: ``threads``, ``providers`` for an ``.onnx`` file; ``config``, ``device`` for the others.

    Raises:
        FileNotFoundError, ImportError, ValueError: without the file or what it runs on, or for an unknown option.
    """
    path = Path(model_path)
    if not path.is_file():
        remedy = 'make one with tools/export.py or tools/train.py.'
        raise FileNotFoundError(f'a model must be an .onnx file or a checkpoint, but there is no file {path}; {remedy}')
    exported = path.suffix.lower() == '.onnx'
    known = RUNTIME_OPTIONS if exported else TORCH_OPTIONS
    foreign = sorted(set(options) - set(known))
    if foreign:
        ours, given = ', '.join(known), ', '.join(foreign)
        raise ValueError(f'{path} must be opened with options of its kind ({ours}), got {given}; leave these out.')
    if exported:
        return OnnxPredictor(path, **options)
    try:  # not a plain import: this layer knows the others by name only, and only where they are asked for
        torch_side = import_module('mmdefect.apis.inference')
    except ImportError as err:
        text = f'{path} needs PyTorch and OpenMMLab, but {err} Or export it to .onnx where they are.'
        raise ImportError(text) from err
    return torch_side.open_model(path, **options)


class BatchPredictor(Predictor):
    """A predictor made of one function: label maps and probabilities of images of one size."""

    image_size_hw: tuple[int, int] | None = None  # the only size of images that is taken; None where any is
    max_regions: int | None = None  # of an image; more are an error: a limit for images from unknown sources

    @abstractmethod
    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network on ``(N, H, W, 3)`` uint8 RGB.

        Returns:
            ``(N, H, W)`` uint8 labels and ``(N, K + 1, H, W)`` float32 probabilities, both the caller's to change.
        """

    def close(self) -> None:
        """Free what the model holds; here, nothing."""

    def predict(self, images: list[ndarray], options: PredictOptions) -> list[Prediction]:
        """Predict images of any sizes; see :meth:`Predictor.predict_batch`."""
        return [measure() for measure in self.start(images, options)]

    def start(self, images: list[ndarray], options: PredictOptions) -> list[Callable[[], Prediction]]:
        """Run the network, and return what is left to do for each image: measuring its defects, in any thread."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            check_rgb(image)
            by_size.setdefault(image.shape, []).append(index)
        measures: dict[int, Callable[[], Prediction]] = {}
        for indices in by_size.values():
            stack = images[indices[0]][None] if len(indices) == 1 else np.stack([images[i] for i in indices])
            labels, probabilities = self.infer(stack, options.thresholds)
            for index, label, probability in zip(indices, labels, probabilities, strict=True):
                measures[index] = partial(self._measure, label, probability, options)
        return [measures[index] for index in range(len(images))]

    def _measure(self, label: ndarray, probability: ndarray, options: PredictOptions) -> Prediction:
        arguments = self.info.classes, options.min_area_px, options.mm_per_pixel, self.max_regions
        defects, kept = (
            find_defects(label, probability, *arguments),
            probability if options.return_probabilities else None,
        )
        return Prediction(label, kept, defects, self.info.rejects(defects), float(probability[1:].max()))


def check_rgb(image: ndarray) -> None:
    """Raise ``ValueError`` unless the array is ``(H, W, 3)`` uint8 with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        found = f'{image.shape} of {image.dtype}; read it with mmdefect.deployment.decoding.'
        raise ValueError(f'an image must be (H, W, 3) uint8 RGB, got {found}')


class FilePredictor(BatchPredictor):
    """A network that was opened from a file, perhaps one for a fixed size or number of images (``None`` for any)."""

    def __init__(
        self, path: str | Path, info: ModelInfo, network: Any, size_hw: Sequence[int] | None, batch: int | None
    ) -> None:
        self.path, self.info, self.network = Path(path), info, network
        self.image_size_hw, self.batch_size = None if size_hw is None else tuple(size_hw), batch

    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network; the last images of a batch that is too small for it are repeated."""
        if self.network is None:
            raise ValueError(f'the model {self.path} must be open, but it has been closed; load it again.')
        if self.image_size_hw not in (None, images.shape[1:3]):
            wanted, given = (f'{size[1]} x {size[0]}' for size in (self.image_size_hw, images.shape[1:3]))
            remedy = 'predict in tiles of that size, or export with a dynamic size.'
            raise ValueError(f'{self.path.name} takes images of {wanted} (width x height), got {given}; {remedy}')
        size, count = self.batch_size or len(images), len(images)
        if size == count:
            return self._run(images, thresholds)
        missing = -count % size
        filled = np.concatenate([images, np.repeat(images[-1:], missing, 0)]) if missing else images
        parts = [self._run(filled[start : start + size], thresholds) for start in range(0, count, size)]
        labels, probabilities = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
        return labels, probabilities

    @abstractmethod
    def _run(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network on as many images of such a size as it takes."""

    def close(self) -> None:
        """Drop the network."""
        self.network = None


class OnnxPredictor(FilePredictor):
    """An exported file on ONNX Runtime. Needs NumPy, OpenCV and onnxruntime, nothing else.

    Args:
        path: the ``.onnx`` file.
        threads: of one call; as many as the process may use if left out.
        providers: execution providers of ONNX Runtime, best first.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, providers: Sequence[str] = ('CPUExecutionProvider',)
    ) -> None:
        require('runtime', 'onnxruntime', who='an exported model')
        import onnxruntime

        known = onnxruntime.get_available_providers()
        if not set(providers) <= set(known):
            raise ValueError(f'`providers` must be among {known}, got {list(providers)}.')
        options = onnxruntime.SessionOptions()
        usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        options.intra_op_num_threads = threads or usable or 0
        # Idle threads that spin cost Fast-SCNN half as much again of processor time, which decoding and writing need.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as err:  # onnxruntime raises its own classes, which derive from nothing narrower
            raise ValueError(f'{path} must be a model that ONNX Runtime can load, but it says: {err}') from err
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            fact = 'but it holds no mmdefect metadata; export the checkpoint again.'
            raise ValueError(f'{path} must be made by tools/export.py, {fact}')
        batch, *size_hw = (n if isinstance(n, int) else None for n in session.get_inputs()[0].shape[:3])
        super().__init__(path, ModelInfo.from_json(text), session, None if None in size_hw else size_hw, batch)

    def _run(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        feed = {'images': np.ascontiguousarray(images), 'thresholds': np.asarray(thresholds, np.float32)}
        return tuple(self.network.run(['labels', 'probabilities'], feed))
