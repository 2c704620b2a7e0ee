"""Predict with PyTorch, straight from a checkpoint or a fitted detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from numpy import ndarray

from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.types import ModelInfo
from mmdefect.inference.anomaly import open_detector
from mmdefect.inference.checkpoint import open_segmentor
from mmdefect.inference.network import Core, DeployedNetwork


class TorchPredictor(BatchPredictor):
    """A deployed network in PyTorch.

    Args:
        network: preparation, network and decision.
        info: of the model.
        path: of its file, for messages.
        device: of PyTorch.
    """

    def __init__(self, network: DeployedNetwork, info: ModelInfo, path: str | Path, device: str = 'cpu') -> None:
        self.info, self.path, self.device, self.image_size_hw = info, Path(path), torch.device(device), None
        self.network: DeployedNetwork | None = network.eval().to(self.device)

    def infer(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        """Run the network; see :meth:`BatchPredictor.infer`."""
        if self.network is None:
            raise ValueError(f'the model {self.path} must be open, but it has been closed; load it again.')
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            labels, probabilities = self.network(batch, torch.tensor(tuple(thresholds), device=self.device))
        return labels.cpu().numpy(), probabilities.cpu().numpy()

    def close(self) -> None:
        """Drop the network."""
        self.network = None


class DefectInferencer(TorchPredictor):
    """A checkpoint of a segmentor.

    Args:
        checkpoint: file of mmengine's Runner.
        config: composed; the one that the checkpoint holds if left out.
        device: of PyTorch.
    """

    def __init__(self, checkpoint: str | Path, config: Config | None = None, device: str = 'cpu') -> None:
        model, preparation, info = open_segmentor(checkpoint, config)
        super().__init__(DeployedNetwork(Core(model), preparation), info, checkpoint, device)


class AnomalyInferencer(TorchPredictor):
    """A fitted anomaly detector with a fast heat map.

    Args:
        detector: a :class:`mmdefect.models.anomaly_detector.AnomalyDetector`.
        path: of its file.
        device: of PyTorch.
    """

    def __init__(self, detector: torch.nn.Module, path: str | Path, device: str = 'cpu') -> None:
        core, preparation, info = open_detector(detector, path)
        super().__init__(DeployedNetwork(core, preparation), info, path, device)
