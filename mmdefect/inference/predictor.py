"""Predict with PyTorch, straight from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from numpy import ndarray

from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.inference.checkpoint import open_segmentor
from mmdefect.inference.network import Core, DeployedNetwork


class DefectInferencer(BatchPredictor):
    """A checkpoint.

    Args:
        checkpoint: file of mmengine's Runner.
        config: composed; the one that the checkpoint holds if left out.
        device: of PyTorch.
    """

    def __init__(self, checkpoint: str | Path, config: Config | None = None, device: str = 'cpu') -> None:
        model, preparation, self.info = open_segmentor(checkpoint, config)
        self.path, self.device, self.image_size_hw = Path(checkpoint), torch.device(device), None
        self.network: DeployedNetwork | None = DeployedNetwork(Core(model), preparation).eval().to(self.device)

    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network; see :meth:`BatchPredictor.infer`."""
        if self.network is None:
            raise ValueError(f'the model {self.path} must be open, but it has been closed; load it again.')
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            labels, probabilities = self.network(batch, torch.tensor(tuple(thresholds), device=self.device))
        return labels.cpu().numpy(), probabilities.cpu().numpy()

    def close(self) -> None:
        """Drop the model."""
        self.network = None
