"""Eight-bit weights and activations for an exported model, calibrated on a folder of images.

Needs ``onnx`` beside onnxruntime (``mmdefect[export]``). Convolutions become quantised, with a scale per output channel;
the resize of the image, the softmax and the decision stay as they are, since thresholds are compared with probabilities.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

from mmdefect.deployment.decoding import read_image
from mmdefect.deployment.header import ImageError
from mmdefect.deployment.sources import find_sources
from mmdefect.deployment.writing import write_bytes

#: Prefix of the nodes around the network, which stay in float.
AROUND = 'around_'


def quantize(model: str | Path, out: str | Path, folder: str | Path, limit: int = 100) -> int:
    """Quantise an exported model.

    Args:
        model: exported ``.onnx`` file in float.
        out: file to write.
        folder: images that show what the line shows; good parts and defects.
        limit: at most so many of them are used.

    Returns:
        The number of images used.

    Raises:
        ValueError: if the folder has no image that the model takes.
        ImportError: without onnx.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as err:
        raise ImportError('quantising needs onnx and onnxruntime; install mmdefect[export].') from err
    graph = onnx.load(str(model))
    metadata = {p.key: p.value for p in graph.metadata_props}
    shape = [d.dim_value or None for d in graph.graph.input[0].type.tensor_type.shape.dim]
    images = _Images(
        folder,
        shape,
        limit,
        graph.graph.input[1].name if len(graph.graph.input) > 1 else None,
        _default(graph, 'thresholds'),
    )
    with tempfile.TemporaryDirectory() as scratch:
        prepared, quantized = Path(scratch) / 'prepared.onnx', Path(scratch) / 'quantized.onnx'
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        ours = [n.name for n in onnx.load(str(prepared)).graph.node if n.name.startswith(AROUND)]
        quantize_static(
            str(prepared),
            str(quantized),
            images,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=['Conv'],
            nodes_to_exclude=ours,
            calibrate_method=CalibrationMethod.MinMax,
        )
        finished = onnx.load(str(quantized))
        onnx.helper.set_model_props(finished, metadata)
        write_bytes(Path(out), finished.SerializeToString())
    return images.used


class _Images:
    """Feeds images to the calibration, one at a time."""

    def __init__(
        self, folder: str | Path, shape: list, limit: int, thresholds_name: str | None, thresholds: ndarray
    ) -> None:
        self.sources = find_sources([str(folder)])
        step = max(1, len(self.sources) // limit)
        self.sources, self.shape, self.used = self.sources[::step][:limit], shape, 0
        self.thresholds = {} if thresholds_name is None else {thresholds_name: thresholds}
        self.feeds = self._feeds()
        if not any(self._fits(s) for s in self.sources):
            raise ValueError(
                f'{folder} must hold images of {shape[2]} x {shape[1]} pixels, which the model takes, but holds none.'
            )

    def _fits(self, source) -> bool:
        try:
            size = read_image(source.path).pixels.shape[:2]
        except ImageError:
            return False
        return self.shape[1] in (None, size[0]) and self.shape[2] in (None, size[1])

    def _feeds(self) -> Iterator[dict[str, ndarray]]:
        for source in self.sources:
            if self._fits(source):
                image = read_image(source.path).pixels[None]
                self.used += 1
                yield {'images': np.repeat(image, self.shape[0] or 1, 0), **self.thresholds}

    def get_next(self) -> dict[str, ndarray] | None:
        """Return the next feed; the name is that of onnxruntime."""
        return next(self.feeds, None)


def _default(graph, name: str) -> ndarray:
    from onnx import numpy_helper

    return next(numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == name)
