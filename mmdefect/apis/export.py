"""Export a checkpoint and say how far the file is from it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.apis.inference import open_model
from mmdefect.deployment.decoding import read_image
from mmdefect.deployment.predictor import BatchPredictor, load_predictor
from mmdefect.deployment.quantization import quantize
from mmdefect.deployment.sources import find_sources
from mmdefect.inference.export import export_model
from mmdefect.inference.parity import MAX_DIFFERENCE, MIN_AGREEMENT, Parity, compare_predictors

FORMS = {'.onnx': 'onnx', '.pt': 'torchscript', '.pt2': 'program'}


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
    """Export and compare.

    Args:
        checkpoint: of a training, or an exported ``.onnx`` file with ``int8``.
        out: file to write; its suffix names the format.
        config: leaf config, for a checkpoint that does not hold its own.
        dynamic: what may differ from call to call, see :func:`export_model`.
        size_hw: of the images.
        batch: of a call, with ``dynamic='none'``.
        int8: folder of images to quantise with.
        check: folder of images to compare on; made ones if left out.

    Returns:
        What was written and how it compares, in words.

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
            export_model(
                reference.network,
                reference.info,
                floating,
                form,
                dynamic or ('size' if form == 'onnx' else 'batch'),
                size_hw,
                batch,
            )
        if int8 is not None:
            used = quantize(floating, out, int8)
        images = _check_images(check or int8, size_hw or reference.info.input_size_hw or (256, 256), size_hw)
        parity = _compare(reference, out, images)
    text = (
        f'{out}: {out.stat().st_size / 2**20:.1f} MiB, largest difference of a probability {parity.difference:.2g}, '
        f'{100 * parity.agreement:.4f} % of the labels equal ({len(images)} images)'
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


def _compare(reference: BatchPredictor, out: Path, images: list[ndarray]) -> Parity:
    return compare_predictors(reference, load_predictor(out), [image[None] for image in images])


def _check_images(
    folder: str | Path | None, size_hw: tuple[int, int], fixed_hw: tuple[int, int] | None
) -> list[ndarray]:
    """Return images to compare on: up to eight of a folder, or smooth noise."""
    if folder is not None:
        images = [read_image(s.path).pixels for s in find_sources([str(folder)])[:8]]
        images = [i for i in images if fixed_hw is None or i.shape[:2] == tuple(fixed_hw)]
        if not images:
            raise ValueError(
                f'{folder} must hold images of {fixed_hw[1]} x {fixed_hw[0]} pixels to compare on, but holds none.'
            )
        return images
    rng = np.random.default_rng(0)
    return [
        cv2.resize(rng.integers(0, 256, (24, 24, 3)).astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_CUBIC)
        for _ in range(4)
    ]
