"""Open a model of any form as a predictor."""

from __future__ import annotations

from pathlib import Path

from mmdefect.deployment.types import Predictor

#: Options of an .onnx file, and of everything that PyTorch opens.
RUNTIME_OPTIONS, TORCH_OPTIONS = ('threads', 'providers'), ('config', 'device')


def load_predictor(model_path: str | Path, **options) -> Predictor:
    """Open a model.

    Args:
        model_path: an exported ``.onnx`` file, which runs on ONNX Runtime without PyTorch; or what needs PyTorch: an
            exported ``.pt`` or ``.pt2`` file, or a checkpoint.
        **options: of the backend: ``threads``, ``providers`` for a file; ``config``, ``device`` for a checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if what the file runs on is not installed.
        ValueError: if an option belongs to the other kind of model.
    """
    path = Path(model_path)
    if not path.is_file():
        raise FileNotFoundError(
            f'a model must be an exported .onnx file or a checkpoint, but there is no file {path}; '
            'make one with tools/export.py or tools/train.py.'
        )
    known = RUNTIME_OPTIONS if path.suffix.lower() == '.onnx' else TORCH_OPTIONS
    foreign = sorted(set(options) - set(known))
    if foreign:
        raise ValueError(
            f'{path} must be opened with options of its kind ({", ".join(known)}), got {", ".join(foreign)}; '
            'leave these out.'
        )
    if path.suffix.lower() == '.onnx':
        from mmdefect.deployment.runtime import OnnxPredictor

        return OnnxPredictor(path, **options)
    # Not a plain import: the pure layer knows the others by name only, and only where somebody asked for them.
    from importlib import import_module

    try:
        torch_side = import_module('mmdefect.apis.inference')
    except ImportError as err:
        raise ImportError(
            f'{path} needs PyTorch and OpenMMLab, but {err} Or export it to .onnx where they are.'
        ) from err
    return torch_side.open_model(path, **options)
