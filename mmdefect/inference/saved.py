"""Saved TorchScript and torch.export files as predictors; both need PyTorch, but neither mmseg nor our code of networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.types import ModelInfo

METADATA_FILE = 'mmdefect.json'


class SavedPredictor(BatchPredictor):
    """A ``.pt`` or ``.pt2`` file of ``tools/export.py``.

    Args:
        path: of the file.
        device: of PyTorch.
    """

    def __init__(self, path: str | Path, device: str = 'cpu') -> None:
        self.path, self.device, self.image_size_hw = Path(path), torch.device(device), None
        extra = {METADATA_FILE: ''}
        if self.path.suffix.lower() == '.pt2':
            self.network = torch.export.load(self.path, extra_files=extra).module()
        else:
            self.network = torch.jit.load(self.path, map_location=self.device, _extra_files=extra).eval()
        text = extra[METADATA_FILE]
        if not text:
            raise ValueError(f'{path} must be made by tools/export.py, but it holds no {METADATA_FILE}; export the checkpoint '
                             'again.')
        self.info = ModelInfo.from_json(text if isinstance(text, str) else text.decode())

    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network; see :meth:`BatchPredictor.infer`."""
        with torch.no_grad():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            labels, probabilities = self.network(batch, torch.tensor(tuple(thresholds), device=self.device))
        return labels.cpu().numpy(), probabilities.cpu().numpy()
