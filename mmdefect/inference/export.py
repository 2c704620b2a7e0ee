"""Write a model to one file that runs without us: ONNX, TorchScript or torch.export."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdefect.deployment.types import ModelInfo
from mmdefect.inference.adaptation import exportable_operations
from mmdefect.inference.network import DeployedNetwork

OPSET = 17
#: What may differ from call to call: nothing, the number of images, or their size as well.
DYNAMIC = ('none', 'batch', 'size')
FORMATS = ('onnx', 'torchscript', 'program')
#: Where TorchScript and torch.export files keep the metadata.
METADATA_FILE = 'mmdefect.json'


def export_model(
    network: DeployedNetwork,
    info: ModelInfo,
    path: str | Path,
    form: str = 'onnx',
    dynamic: str = 'size',
    size_hw: tuple[int, int] | None = None,
    batch: int = 1,
) -> Path:
    """Write a deployed network to a file.

    Args:
        network: see :class:`DeployedNetwork`; it is left as it was.
        info: of the model; travels in the file.
        path: of the file.
        form: ``onnx``, ``torchscript`` (``.pt``, a trace) or ``program`` (``.pt2``, of ``torch.export``).
        dynamic: ``none`` fixes ``batch`` and ``size_hw``, ``batch`` the size only, ``size`` nothing.
        size_hw: of the images; needed unless ``dynamic`` is ``size``.
        batch: images of a call; only with ``dynamic='none'``.

    Returns:
        The path.

    Raises:
        ValueError: for settings that do not fit together, or when the model cannot be exported that way; nothing is
            written then.
    """
    if form not in FORMATS or dynamic not in DYNAMIC:
        raise ValueError(
            f'`form` must be one of {FORMATS} and `dynamic` one of {DYNAMIC}, got {form!r} and {dynamic!r}.'
        )
    if dynamic != 'size' and size_hw is None:
        raise ValueError(
            f'`size_hw` must say the size of the images with `dynamic={dynamic!r}`; give it, or export with '
            "`dynamic='size'`."
        )
    write = {'onnx': _onnx, 'torchscript': _torchscript, 'program': _program}[form]
    try:
        with warnings.catch_warnings(), exportable_operations(dynamic == 'size'), torch.no_grad():
            warnings.simplefilter('ignore')  # a tracer warns of every constant it takes; parity is checked instead
            content = write(network.eval(), info, dynamic, size_hw, batch)
    except Exception as err:  # exporters raise what they like; what is said is kept
        text = ' '.join(str(err).split())
        raise ValueError(
            f'{info.name or "the model"} cannot be exported as {form} with dynamic {dynamic}: '
            f'{type(err).__name__}: {text[:300]}'
        ) from err
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.part')
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _onnx(
    network: DeployedNetwork, info: ModelInfo, dynamic: str, size_hw: tuple[int, int] | None, batch: int
) -> bytes:
    from mmdefect.inference.onnx_graph import wrap_core

    network_hw = _traced_size(network, dynamic, size_hw)
    # images of any size become one size inside where the aspect ratio is not kept
    fixed_inside = network.preparation.scale_hw is not None and not network.preparation.keep_ratio
    core = export_core(
        network.core, network_hw, batch if dynamic == 'none' else None, open_size=dynamic == 'size' and not fixed_inside
    )
    model = wrap_core(
        core, network.preparation, info, batch if dynamic == 'none' else None, None if dynamic == 'size' else size_hw
    )
    return model.SerializeToString()


def export_core(core: nn.Module, size_hw: tuple[int, int], batch: int | None, open_size: bool):
    """Return the ONNX model of a network ``(N, 3, h, w)`` -> ``(N, C, h, w)``.

    Args:
        core: the network.
        size_hw: of the input that is traced.
        batch: fixed number of images, ``None`` for any.
        open_size: whether the size may differ.
    """
    import onnx

    axes = {} if batch is not None else {0: 'N'}
    if open_size:
        axes |= {2: 'h', 3: 'w'}
    example = torch.zeros(batch or 2, 3, *size_hw)
    core(example)  # whatever is made at the first call must be there before the trace
    stream = io.BytesIO()
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


def _torchscript(
    network: DeployedNetwork, info: ModelInfo, dynamic: str, size_hw: tuple[int, int] | None, batch: int
) -> bytes:
    if dynamic == 'size':
        raise ValueError('a trace fixes the size; take `dynamic` batch or none, or ONNX.')
    images, thresholds, fixed = _example(info, size_hw, batch if dynamic == 'none' else None)
    network(images, thresholds)  # whatever is made at the first call must be there before the trace
    traced = torch.jit.trace(network, (images, thresholds), check_trace=False)
    stream = io.BytesIO()
    torch.jit.save(traced, stream, _extra_files={METADATA_FILE: fixed.to_json()})
    return stream.getvalue()


def _program(
    network: DeployedNetwork, info: ModelInfo, dynamic: str, size_hw: tuple[int, int] | None, batch: int
) -> bytes:
    if dynamic == 'size':
        raise ValueError('a program is exported for one size; take `dynamic` batch or none, or ONNX.')
    images, thresholds, fixed = _example(info, size_hw, batch if dynamic == 'none' else None)
    network(images, thresholds)  # whatever is made at the first call must be there before the trace
    shapes = ({0: torch.export.Dim('N', min=1)}, {}) if dynamic == 'batch' else None
    program = torch.export.export(network, (images, thresholds), dynamic_shapes=shapes)
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={METADATA_FILE: fixed.to_json()})
    return stream.getvalue()


def _example(info: ModelInfo, size_hw: tuple[int, int], batch: int | None) -> tuple[Tensor, Tensor, ModelInfo]:
    """Return inputs to trace with, and the info that says which batch and size the file is fixed to."""
    fixed = replace(info, extra={**info.extra, 'image_size_hw': list(size_hw), 'batch_size': batch})
    return torch.zeros(batch or 2, *size_hw, 3, dtype=torch.uint8), torch.tensor(info.thresholds), fixed


def _traced_size(network: DeployedNetwork, dynamic: str, size_hw: tuple[int, int] | None) -> tuple[int, int]:
    """Return the size of the network's input to trace with."""
    if dynamic != 'size' or (not network.preparation.keep_ratio and network.preparation.scale_hw is not None):
        return network.preparation.network_size(size_hw or (0, 0))
    return network.preparation.scale_hw or size_hw or (256, 256)
