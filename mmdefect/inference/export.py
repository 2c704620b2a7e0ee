"""Write a model to one file that runs without us: ONNX, TorchScript or torch.export; and measure what that changes."""

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from mmdefect import files
from mmdefect.deployment.predictor import BatchPredictor
from mmdefect.deployment.types import ModelInfo
from mmdefect.inference.adaptation import exportable_operations
from mmdefect.inference.network import DeployedNetwork

OPSET = 17
#: What may differ from call to call: nothing, the number of images, or their size as well.
DYNAMIC = ('none', 'batch', 'size')
FORMATS = ('onnx', 'torchscript', 'program')
#: Where TorchScript and torch.export files keep the metadata.
METADATA_FILE = 'mmdefect.json'
#: How close to its source an exported model must stay: probabilities, and the share of equal labels.
MAX_DIFFERENCE, MIN_AGREEMENT = 1e-4, 0.9999


def export_model(
    network: DeployedNetwork,
    info: ModelInfo,
    path: str | Path,
    form: str = 'onnx',
    dynamic: str = 'size',
    size_hw: tuple[int, int] | None = None,
    batch: int = 1,
) -> Path:
    """Write a deployed network to a file, and return its path.

    Args:
        network: is left as it was.
        info: of the model; travels in the file.
        path: of the file.
        form: ``onnx``, ``torchscript`` (``.pt``, a trace) or ``program`` (``.pt2``, of ``torch.export``).
        dynamic: ``none`` fixes ``batch`` and ``size_hw``, ``batch`` the size only, ``size`` nothing.
        size_hw: of the images; needed unless ``dynamic`` is ``size``.
        batch: images of a call; only with ``dynamic='none'``.

    Raises:
        ValueError: if settings do not fit together, or the model cannot be exported that way; nothing is written then.
    """
    if form not in FORMATS or dynamic not in DYNAMIC:
        given = f'got {form!r} and {dynamic!r}.'
        raise ValueError(f'`form` must be one of {FORMATS} and `dynamic` one of {DYNAMIC}, {given}')
    if dynamic != 'size' and size_hw is None:
        remedy = "give it, or export with `dynamic='size'`."
        raise ValueError(f'`size_hw` must say the size of the images with `dynamic={dynamic!r}`; {remedy}')
    fixed_batch = batch if dynamic == 'none' else None
    try:
        with warnings.catch_warnings(), exportable_operations(dynamic == 'size'), torch.no_grad():
            warnings.simplefilter(
                'ignore'
            )  # a tracer warns of every constant it takes; the results are compared instead
            if form == 'onnx':
                content = _onnx(network.eval(), info, size_hw, fixed_batch, dynamic == 'size')
            elif dynamic == 'size':
                raise ValueError('a trace fixes the size; take `dynamic` batch or none, or ONNX.')
            else:
                content = _torch(network.eval(), info, size_hw, fixed_batch, form)
    except Exception as err:  # exporters raise what they like; what is said is kept
        text = f'{type(err).__name__}: {" ".join(str(err).split())[:300]}'
        name = info.name or 'the model'
        raise ValueError(f'{name} cannot be exported as {form} with dynamic {dynamic}: {text}') from err
    files.write_bytes(path, content)
    return Path(path)


def _onnx(
    network: DeployedNetwork, info: ModelInfo, size_hw: tuple[int, int] | None, batch: int | None, open_size: bool
) -> bytes:
    from mmdefect.inference.onnx_graph import wrap_core

    preparation = network.preparation
    # images of any size become one size inside where the aspect ratio is not kept
    fixed_inside = preparation.scale_hw is not None and not preparation.keep_ratio
    if open_size and not fixed_inside:
        traced_hw = preparation.scale_hw or size_hw or (256, 256)
    else:
        traced_hw = preparation.network_size(size_hw or (0, 0))
    core = export_core(network.core, traced_hw, batch, open_size and not fixed_inside)
    return wrap_core(core, preparation, info, batch, None if open_size else size_hw).SerializeToString()


def export_core(core: nn.Module, size_hw: tuple[int, int], batch: int | None, open_size: bool):
    """Return the ONNX model of a network ``(N, 3, h, w)`` -> ``(N, C, h, w)``.

    It is traced with an input of ``size_hw``; the number of images is fixed unless ``None``, the size unless open.
    """
    import onnx

    axes = ({} if batch is not None else {0: 'N'}) | ({2: 'h', 3: 'w'} if open_size else {})
    example, stream = torch.zeros(batch or 2, 3, *size_hw), io.BytesIO()
    core(example)  # whatever is made at the first call must be there before the trace
    torch.onnx.export(
        core,
        (example,),
        stream,
        input_names=['core_input'],
        output_names=['core_output'],
        dynamic_axes={'core_input': axes, 'core_output': axes} if axes else None,
        opset_version=OPSET,
        dynamo=False,
    )
    return onnx.load_from_string(stream.getvalue())


def _torch(network: DeployedNetwork, info: ModelInfo, size_hw: tuple[int, int], batch: int | None, form: str) -> bytes:
    """Return the content of a file of TorchScript or torch.export; it says which batch and size it is fixed to."""
    info = replace(info, extra={**info.extra, 'image_size_hw': list(size_hw), 'batch_size': batch})
    extra, stream = {METADATA_FILE: info.to_json()}, io.BytesIO()
    example = torch.zeros(batch or 2, *size_hw, 3, dtype=torch.uint8), torch.tensor(info.thresholds)
    network(*example)  # whatever is made at the first call must be there before the trace
    if form == 'torchscript':
        torch.jit.save(torch.jit.trace(network, example, check_trace=False), stream, _extra_files=extra)
    else:
        shapes = ({0: torch.export.Dim('N', min=1)}, {}) if batch is None else None
        program = torch.export.export(network, example, dynamic_shapes=shapes)
        torch.export.save(program, stream, extra_files=extra)
    return stream.getvalue()


@dataclass(frozen=True)
class Parity:
    """How far two predictors are apart on the same images."""

    difference: float  # largest absolute difference of a probability
    agreement: float  # share of pixels with the same label

    @property
    def holds(self) -> bool:
        """Whether both bounds are kept."""
        return self.difference <= MAX_DIFFERENCE and self.agreement >= MIN_AGREEMENT


def compare_predictors(one: BatchPredictor, two: BatchPredictor, batches: list[ndarray]) -> Parity:
    """Run two predictors over batches of images, ``(N, H, W, 3)`` uint8, with the thresholds of the first."""
    difference, same, total = 0.0, 0, 0
    for images in batches:
        labels, probabilities = one.infer(images, one.info.thresholds)
        other_labels, other = two.infer(images, one.info.thresholds)
        difference = max(difference, float(np.abs(probabilities - other).max()))
        same, total = same + int((labels == other_labels).sum()), total + labels.size
    return Parity(difference, same / total)
