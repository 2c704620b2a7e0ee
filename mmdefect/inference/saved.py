"""Saved TorchScript and torch.export files as predictors; both need PyTorch, but neither mmseg nor our code of networks."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from mmdefect.deployment.predictor import BatchPredictor, check_size, run_in_batches
from mmdefect.deployment.types import ModelInfo
from mmdefect.inference.export import METADATA_FILE


class SavedPredictor(BatchPredictor):
    """A ``.pt`` or ``.pt2`` file of ``tools/export.py``.

    Args:
        path: of the file.
        device: of PyTorch.
    """

    def __init__(self, path: str | Path, device: str = 'cpu') -> None:
        self.path, self.device = Path(path), torch.device(device)
        extra = {METADATA_FILE: ''}
        if _is_program(self.path):
            self.network = torch.export.load(self.path, extra_files=extra).module()
        else:
            self.network = torch.jit.load(self.path, map_location=self.device, _extra_files=extra).eval()
        text = extra[METADATA_FILE]
        if not text:
            raise ValueError(
                f'{path} must be made by tools/export.py, but it holds no {METADATA_FILE}; export the checkpoint again.'
            )
        self.info = ModelInfo.from_json(text if isinstance(text, str) else text.decode())
        self.image_size_hw = tuple(self.info.extra['image_size_hw'])
        self.batch_size: int | None = self.info.extra['batch_size']

    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network; see :meth:`BatchPredictor.infer`."""
        check_size(self.path.name, self.image_size_hw, images)
        return run_in_batches(self._run, images, thresholds, self.batch_size)

    def _run(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        if self.network is None:
            raise ValueError(f'the model {self.path} must be open, but it has been closed; load it again.')
        with torch.no_grad():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            labels, probabilities = self.network(batch, torch.tensor(tuple(thresholds), device=self.device))
        return labels.cpu().numpy(), probabilities.cpu().numpy()

    def close(self) -> None:
        """Drop the network."""
        self.network = None


def is_saved(path: str | Path) -> bool:
    """Whether a file is one of ours: both formats are archives with the metadata in them."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f'extra/{METADATA_FILE}') for name in archive.namelist())


def _is_program(path: Path) -> bool:
    """Whether it is of ``torch.export``, which has a file of its version, and not TorchScript, which has code."""
    with zipfile.ZipFile(path) as archive:
        return not any('/code/' in name for name in archive.namelist())
