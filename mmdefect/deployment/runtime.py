"""Exported models on ONNX Runtime. Needs NumPy, OpenCV and onnxruntime, nothing else.

The graph takes ``images``, ``(N, H, W, 3)`` uint8 RGB, and ``thresholds``, ``(K,)`` float32 with the model's own as the
default, and returns ``labels`` and ``probabilities``; everything between happens inside. What the model is stands in the
metadata of the file under ``mmdefect``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.types import ModelInfo

METADATA_KEY = 'mmdefect'


class OnnxPredictor(BatchPredictor):
    """An exported file.

    Args:
        path: the ``.onnx`` file.
        threads: of one call; as many as the process may use if left out.
        providers: execution providers of ONNX Runtime, best first.

    Raises:
        ImportError: without onnxruntime.
        ValueError: if the file holds no model of ours, or an unknown provider is asked for.
    """

    def __init__(self, path: str | Path, threads: int | None = None,
                 providers: Sequence[str] = ('CPUExecutionProvider', )) -> None:
        try:
            import onnxruntime
        except ImportError as err:
            raise ImportError('exported models run on onnxruntime, which is not installed; '
                              'install mmdefect[runtime].') from err
        known = onnxruntime.get_available_providers()
        if not set(providers) <= set(known):
            raise ValueError(f'`providers` must be among {known}, got {list(providers)}.')
        options = onnxruntime.SessionOptions()
        usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        options.intra_op_num_threads = threads or usable or 0
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as err:  # onnxruntime raises its own classes, which derive from nothing narrower
            raise ValueError(f'{path} must be a model that ONNX Runtime can load, but it says: {err}') from err
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ValueError(f'{path} must be made by tools/export.py, but it holds no mmdefect metadata; export the '
                             'checkpoint again.')
        self.path, self.info, self._session = Path(path), ModelInfo.from_json(text), session
        shape = session.get_inputs()[0].shape
        #: Fixed number of images and fixed size; ``None`` where any will do.
        self.batch_size = shape[0] if isinstance(shape[0], int) else None
        self.image_size_hw = tuple(shape[1:3]) if isinstance(shape[1], int) else None

    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the graph; see :meth:`BatchPredictor.infer`."""
        if self._session is None:
            raise ValueError(f'the model {self.path} must be open, but it has been closed; load it again.')
        if self.image_size_hw is not None and images.shape[1:3] != self.image_size_hw:
            raise ValueError(f'{self.path.name} takes images of {self.image_size_hw[1]} x {self.image_size_hw[0]} (width x '
                             f'height), got {images.shape[2]} x {images.shape[1]}; predict in tiles of that size, or '
                             'export with a dynamic size.')
        factors = np.asarray(thresholds, np.float32)
        if self.batch_size is None:
            return self._run(images, factors)
        parts = []
        for start in range(0, len(images), self.batch_size):
            part = images[start:start + self.batch_size]
            missing = self.batch_size - len(part)
            filled = part if not missing else np.concatenate([part, np.repeat(part[-1:], missing, 0)])
            parts.append([out[:len(part)] for out in self._run(filled, factors)])
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(p) for p in zip(*parts, strict=True))

    def _run(self, images: ndarray, thresholds: ndarray) -> tuple[ndarray, ndarray]:
        feed = {'images': np.ascontiguousarray(images), 'thresholds': thresholds}
        labels, probabilities = self._session.run(['labels', 'probabilities'], feed)
        return labels, probabilities

    def close(self) -> None:
        """Drop the session."""
        self._session = None
