"""Open what needs PyTorch for prediction: a checkpoint, with a leaf config if one is named, or a saved network."""

from __future__ import annotations

from pathlib import Path

from mmdefect.apis.config import load_config
from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.inference import DefectInferencer
from mmdefect.inference.saved import SavedPredictor, is_saved


def open_model(path: str | Path, config: str | Path | None = None, device: str = 'cpu') -> BatchPredictor:
    """Open a checkpoint, or a TorchScript or torch.export file of ``tools/export.py``.

    Args:
        path: of the file.
        config: leaf config of a checkpoint; that of the training, which it holds, if left out.
        device: of PyTorch.
    """
    if is_saved(path):
        return SavedPredictor(path, device)
    return open_checkpoint(path, config, device)


def open_checkpoint(checkpoint: str | Path, config: str | Path | None = None, device: str = 'cpu') -> DefectInferencer:
    """Open a checkpoint that ``tools/train.py`` wrote; see :func:`open_model`."""
    import mmdefect.registration  # noqa: F401  (the checkpoint's own config names it, a foreign one may not)
    return DefectInferencer(checkpoint, None if config is None else load_config(config), device)
