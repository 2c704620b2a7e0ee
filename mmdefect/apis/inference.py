"""Open what needs PyTorch for prediction: a checkpoint, with a leaf config if one is named, or a saved network."""

from __future__ import annotations

import zipfile
from pathlib import Path

from mmdefect.apis.config import load_config
from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.inference import AnomalyInferencer, DefectInferencer
from mmdefect.inference.saved import SavedPredictor, is_saved


def open_model(path: str | Path, config: str | Path | None = None, device: str = 'cpu') -> BatchPredictor:
    """Open a checkpoint, a fitted anomaly detector, or a TorchScript or torch.export file of ``tools/export.py``.

    Args:
        path: of the file.
        config: leaf config of a checkpoint; that of the training, which it holds, if left out.
        device: of PyTorch.
    """
    if is_saved(path):
        return SavedPredictor(path, device)
    if is_detector(path):
        from mmdefect.models.anomaly_detector import AnomalyDetector

        return AnomalyInferencer(AnomalyDetector.load(path), path, device)
    return open_checkpoint(path, config, device)


def is_detector(path: str | Path) -> bool:
    """Whether a file is a detector of ``tools/anomaly.py fit``: its pickle names the format; nothing is unpickled."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith('data.pkl')]
        return any(b'mmdefect-anomaly/' in archive.read(name) for name in pickles)


def open_checkpoint(checkpoint: str | Path, config: str | Path | None = None, device: str = 'cpu') -> DefectInferencer:
    """Open a checkpoint that ``tools/train.py`` wrote; see :func:`open_model`."""
    import mmdefect.registration  # noqa: F401  (the checkpoint's own config names it, a foreign one may not)

    return DefectInferencer(checkpoint, None if config is None else load_config(config), device)
