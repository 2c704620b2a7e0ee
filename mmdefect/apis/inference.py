"""Open what needs PyTorch for prediction, and export it, saying how far the file is from it."""

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.apis.config import load_config
from mmdefect.deployment.decoding import read_image
from mmdefect.deployment.predictor import BatchPredictor, load_predictor
from mmdefect.deployment.quantization import quantize
from mmdefect.deployment.sources import find_sources
from mmdefect.inference import AnomalyInferencer, DefectInferencer
from mmdefect.inference.export import MAX_DIFFERENCE, MIN_AGREEMENT, compare_predictors, export_model
from mmdefect.inference.predictor import SavedPredictor, is_saved

FORMS = {'.onnx': 'onnx', '.pt': 'torchscript', '.pt2': 'program'}


def open_model(path: str | Path, config: str | Path | None = None, device: str = 'cpu') -> BatchPredictor:
    """Open a checkpoint, a fitted anomaly detector, or a TorchScript or torch.export file of ``tools/export.py``.

    ``config`` is the leaf config of a checkpoint; by default that of the training, which it holds.
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


def export(
    checkpoint: str | Path,
    out: str | Path,
    config: str | Path | None = None,
    dynamic: str | None = None,
    size_hw: tuple[int, int] | None = None,
    batch: int = 1,
    int8: str | Path | None = None,
    check: str | Path | None = None,
) -> str:
    """Export, compare, and say what was written and how it compares.

    Args:
        checkpoint: of a training, or an exported ``.onnx`` file with ``int8``.
        out: file to write; its suffix names the format.
        config: leaf config, for a checkpoint that does not hold its own.
        dynamic, size_hw, batch: see :func:`mmdefect.inference.export.export_model`.
        int8: folder of images to quantise with.
        check: folder of images to compare on; made ones if left out.

    Raises:
        ValueError: if it cannot be exported, or a file in float predicts something else; that file is removed.
    """
    out = Path(out)
    form = FORMS.get(out.suffix.lower())
    if form is None or (int8 is not None and form != 'onnx'):
        raise ValueError(
            f'the file to write must end in one of {", ".join(FORMS)} (in .onnx with --int8), got {out.name}.'
        )
    quantised_only = Path(checkpoint).suffix.lower() == '.onnx'
    if quantised_only and int8 is None:
        raise ValueError(f'{checkpoint} is exported already; give a checkpoint, or a folder with --int8.')
    with tempfile.TemporaryDirectory() as scratch:
        if quantised_only:
            floating, reference = Path(checkpoint), load_predictor(checkpoint)
        else:
            reference = open_model(checkpoint, config)
            if not hasattr(reference, 'network') or not hasattr(reference.network, 'preparation'):
                raise ValueError(f'{checkpoint} is exported already; give a checkpoint or a fitted detector.')
            floating = out if int8 is None else Path(scratch) / 'float.onnx'
            dynamic = dynamic or ('size' if form == 'onnx' else 'batch')
            export_model(reference.network, reference.info, floating, form, dynamic, size_hw, batch)
        if int8 is not None:
            used = quantize(floating, out, int8)
        images = _check_images(check or int8, size_hw or reference.info.input_size_hw or (256, 256), size_hw)
        parity = compare_predictors(reference, load_predictor(out), [image[None] for image in images])
    text = (
        f'{out}: {out.stat().st_size / 2**20:.1f} MiB, largest difference of a probability {parity.difference:.2g}, '
        f'{100 * parity.agreement:.4f} % of the labels equal ({len(images)} images); '
        f'{reference.info.verdict().removesuffix(".")}'
    )
    if int8 is not None:
        return f'{text}; quantised with {used} images. Measure what it costs on your test images before using it.'
    if not parity.holds:
        out.unlink()
        raise ValueError(
            f'an exported model must predict the same (probabilities within {MAX_DIFFERENCE}, '
            f'{100 * MIN_AGREEMENT} % of the labels), but: {text}; the file has been removed.'
        )
    return text


def _check_images(folder: str | Path | None, size_hw: tuple[int, int], fixed_hw: Sequence[int] | None) -> list[ndarray]:
    """Return images to compare on: up to eight of a folder, or smooth noise."""
    if folder is None:
        rng, side = np.random.default_rng(0), size_hw[::-1]
        noise = [rng.integers(0, 256, (24, 24, 3)).astype(np.uint8) for _ in range(4)]
        return [cv2.resize(image, side, interpolation=cv2.INTER_CUBIC) for image in noise]
    images = [read_image(s.path).pixels for s in find_sources([str(folder)])[:8]]
    images = [i for i in images if fixed_hw is None or i.shape[:2] == tuple(fixed_hw)]
    if not images:
        size = f'{fixed_hw[1]} x {fixed_hw[0]} pixels'
        raise ValueError(f'{folder} must hold images of {size} to compare on, but holds none.')
    return images
