"""Predict with PyTorch: a checkpoint, a fitted anomaly detector, or a file of TorchScript or torch.export.

The contract, and the backend of ONNX Runtime, are in ``mmdefect/deployment/predictor.py``.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from numpy import ndarray
from torch import nn

from mmdefect.deployment.predictor import FilePredictor
from mmdefect.deployment.types import ModelInfo
from mmdefect.inference.anomaly import open_detector
from mmdefect.inference.checkpoint import open_segmentor
from mmdefect.inference.export import METADATA_FILE
from mmdefect.inference.network import Core, DeployedNetwork


class TorchPredictor(FilePredictor):
    """A network in PyTorch that takes images and thresholds, as :class:`DeployedNetwork` does."""

    def __init__(
        self, network: nn.Module, info: ModelInfo, path: str | Path, device: str = 'cpu', size_hw=None, batch=None
    ) -> None:
        self.device = torch.device(device)
        super().__init__(path, info, network.to(self.device), size_hw, batch)

    def _run(self, images: ndarray, thresholds: Sequence[float]) -> tuple[ndarray, ndarray]:
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            labels, probabilities = self.network(batch, torch.tensor(tuple(thresholds), device=self.device))
        return labels.cpu().numpy(), probabilities.cpu().numpy()


class DefectInferencer(TorchPredictor):
    """A checkpoint of a segmentor, with a composed config or the one that the checkpoint holds."""

    def __init__(self, checkpoint: str | Path, config: Config | None = None, device: str = 'cpu') -> None:
        model, preparation, info = open_segmentor(checkpoint, config)
        super().__init__(DeployedNetwork(Core(model), preparation).eval(), info, checkpoint, device)


class AnomalyInferencer(TorchPredictor):
    """A fitted :class:`mmdefect.models.anomaly_detector.AnomalyDetector`."""

    def __init__(self, detector: nn.Module, path: str | Path, device: str = 'cpu') -> None:
        core, preparation, info = open_detector(detector, path)
        super().__init__(DeployedNetwork(core, preparation).eval(), info, path, device)


class SavedPredictor(TorchPredictor):
    """A ``.pt`` or ``.pt2`` file of ``tools/export.py``; needs neither mmseg nor our code of networks."""

    def __init__(self, path: str | Path, device: str = 'cpu') -> None:
        extra = {METADATA_FILE: ''}
        with zipfile.ZipFile(path) as archive:  # TorchScript has code, torch.export has not
            scripted = any('/code/' in name for name in archive.namelist())
        if scripted:
            network = torch.jit.load(path, map_location=device, _extra_files=extra).eval()
        else:
            network = torch.export.load(path, extra_files=extra).module()
        if not extra[METADATA_FILE]:
            why = f'but it holds no {METADATA_FILE}; export the checkpoint again.'
            raise ValueError(f'{path} must be made by tools/export.py, {why}')
        info = ModelInfo.from_json(extra[METADATA_FILE])
        super().__init__(network, info, path, device, info.extra['image_size_hw'], info.extra['batch_size'])


def is_saved(path: str | Path) -> bool:
    """Whether a file is one of ours: both formats are archives with the metadata in them."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f'extra/{METADATA_FILE}') for name in archive.namelist())
