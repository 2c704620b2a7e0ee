"""Eight-bit weights and activations for an exported model, calibrated on a folder of images.

Needs ``onnx`` beside onnxruntime (``mmdefect[export]``). Convolutions are quantised, with a scale per output channel;
the resize of the image, the softmax and the decision stay in float, since thresholds are compared with probabilities.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

from mmdefect import files
from mmdefect.deployment.decoding import ImageError, read_image
from mmdefect.deployment.sources import find_sources
from mmdefect.extras import require

#: Prefix of the nodes around the network, which stay in float.
AROUND = 'around_'


def quantize(model: str | Path, out: str | Path, folder: str | Path, limit: int = 100) -> int:
    """Quantise an exported ``.onnx`` file into the file ``out``, and return the number of images used.

    The ``folder`` holds images like those of the production line, good parts and defects; at most ``limit`` are used.
    """
    require('export', 'onnx', 'onnxruntime', who='quantising')
    import onnx
    from onnxruntime import quantization as tools
    from onnxruntime.quantization.shape_inference import quant_pre_process

    floating = onnx.load(str(model))
    graph, metadata = floating.graph, {p.key: p.value for p in floating.metadata_props}
    shape = [d.dim_value or None for d in graph.input[0].type.tensor_type.shape.dim]
    defaults = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == 'thresholds'}
    images = _Images(folder, shape, limit, defaults if len(graph.input) > 1 else {})
    with tempfile.TemporaryDirectory() as scratch:
        prepared, quantized = (str(Path(scratch) / name) for name in ('prepared.onnx', 'quantized.onnx'))
        quant_pre_process(str(model), prepared, skip_symbolic_shape=True)
        tools.quantize_static(
            prepared,
            quantized,
            images,
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            op_types_to_quantize=['Conv'],
            nodes_to_exclude=[n.name for n in onnx.load(prepared).graph.node if n.name.startswith(AROUND)],
            calibrate_method=tools.CalibrationMethod.MinMax,
        )
        finished = onnx.load(quantized)
    onnx.helper.set_model_props(finished, metadata)
    files.write_bytes(out, finished.SerializeToString())
    return images.used


class _Images:
    """Feeds images of a folder to the calibration, one at a time, with the thresholds if the graph takes them."""

    def __init__(self, folder: str | Path, shape: list[int | None], limit: int, thresholds: dict[str, ndarray]) -> None:
        sources = find_sources([str(folder)])
        self.paths = [source.path for source in sources[:: max(1, len(sources) // limit)][:limit]]
        self.shape, self.thresholds, self.used = shape, thresholds, 0
        self.feeds = self._feeds()
        if not any(self._read(path) is not None for path in self.paths):
            size = f'{shape[2]} x {shape[1]}'
            raise ValueError(f'{folder} must hold images of {size} pixels, which the model takes, but holds none.')

    def _read(self, path: Path) -> ndarray | None:
        """Return an image, or nothing if it cannot be read or does not fit the model."""
        try:
            image = read_image(path).pixels
        except ImageError:
            return None
        fits = all(fixed in (None, side) for fixed, side in zip(self.shape[1:3], image.shape, strict=False))
        return image if fits else None

    def _feeds(self) -> Iterator[dict[str, ndarray]]:
        for path in self.paths:
            image = self._read(path)
            if image is not None:
                self.used += 1
                yield {'images': np.repeat(image[None], self.shape[0] or 1, 0), **self.thresholds}

    def get_next(self) -> dict[str, ndarray] | None:
        """Return the next feed; the name is that of onnxruntime."""
        return next(self.feeds, None)
