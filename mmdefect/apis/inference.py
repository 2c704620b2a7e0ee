"""Open a checkpoint for prediction, with a leaf config if one is named."""

from __future__ import annotations

from pathlib import Path

from mmdefect.apis.config import load_config
from mmdefect.inference import DefectInferencer


def open_checkpoint(checkpoint: str | Path, config: str | Path | None = None, device: str = 'cpu') -> DefectInferencer:
    """Open a checkpoint.

    Args:
        checkpoint: file that ``tools/train.py`` wrote.
        config: leaf config; that of the training, which the checkpoint holds, if left out.
        device: of PyTorch.
    """
    import mmdefect.registration  # noqa: F401  (the checkpoint's own config names it, a foreign one may not)
    return DefectInferencer(checkpoint, None if config is None else load_config(config), device)
