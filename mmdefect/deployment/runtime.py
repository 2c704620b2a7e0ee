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

from mmdefect.deployment.predictor import BatchPredictor, check_size, run_in_batches
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

    def __init__(
        self, path: str | Path, threads: int | None = None, providers: Sequence[str] = ('CPUExecutionProvider',)
    ) -> None:
        try:
            import onnxruntime
        except ImportError as err:
            raise ImportError(
                'exported models run on onnxruntime, which is not installed; install mmdefect[runtime].'
            ) from err
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
            raise ValueError(
                f'{path} must be made by tools/export.py, but it holds no mmdefect metadata; export the '
                'checkpoint again.'
            )
        self.path, self.info, self._session = Path(path), ModelInfo.from_json(text), session
        shape = session.get_inputs()[0].shape
        #: Fixed number of images and fixed size; ``None`` where any will do.
        self.batch_size = shape[0] if isinstance(shape[0], int) else None
        self.image_size_hw = tuple(shape[1:3]) if isinstance(shape[1], int) else None

    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the graph; see :meth:`BatchPredictor.infer`."""
        if self._session is None:
            raise ValueError(f'the model {self.path} must be open, but it has been closed; load it again.')
        check_size(self.path.name, self.image_size_hw, images)
        return run_in_batches(self._run, images, np.asarray(thresholds, np.float32), self.batch_size)

    def _run(self, images: ndarray, thresholds: ndarray) -> tuple[ndarray, ndarray]:
        feed = {'images': np.ascontiguousarray(images), 'thresholds': thresholds}
        labels, probabilities = self._session.run(['labels', 'probabilities'], feed)
        return labels, probabilities

    def close(self) -> None:
        """Drop the session."""
        self._session = None
