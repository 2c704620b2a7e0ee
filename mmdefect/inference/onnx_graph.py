"""The ONNX graph around the exported network: uint8 images in, labels and probabilities out.

The same steps as :class:`mmdefect.inference.network.DeployedNetwork`, written as ONNX nodes: so sizes may stay open, the
thresholds are an input with the model's own as default, and no exporter decides how a resize is spelled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmdefect.deployment.predictor import METADATA_KEY
from mmdefect.deployment.types import ModelInfo
from mmdefect.inference.network import VALUE_STEPS, WEIGHT_STEPS
from mmdefect.inference.preparation import Preparation


class GraphBuilder:
    """Collects nodes and constants under running names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers = itertools.count()

    def constant(self, value, dtype) -> str:
        """Add a constant; return its name."""
        name = f'around_constant_{len(self.constants)}'
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, outputs: int = 1, **attributes):
        """Add a node; return the name of its output, or of its outputs."""
        number = next(self._numbers)
        names = [output or f'around_{number}_{i}' for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f'around_{kind}_{number}', **attributes))
        return names[0] if outputs == 1 else names


def wrap_core(
    core: onnx.ModelProto, preparation: Preparation, info: ModelInfo, batch: int | None, size_hw: tuple[int, int] | None
) -> onnx.ModelProto:
    """Put preparation and decision around an exported network.

    Args:
        core: one input ``(N, 3, h, w)`` float, one output ``(N, C, h, w)`` logits; names must not clash with ours.
        preparation: of the images.
        info: goes into the metadata of the file.
        batch: number of images, ``None`` for any.
        size_hw: of the images, ``None`` for any.
    """
    graph = GraphBuilder()
    core_in, core_out = core.graph.input[0].name, core.graph.output[0].name
    shape = [batch or 'N', *(size_hw or ('H', 'W')), 3]
    prepared = _prepare(graph, preparation, size_hw)
    graph.add('Identity', prepared, output=core_in)
    before = list(graph.nodes)
    graph.nodes = []
    _decide(graph, core_out, preparation, info, size_hw)
    nodes = before + list(core.graph.node) + graph.nodes
    classes = len(info.classes)
    defaults = numpy_helper.from_array(np.asarray(info.thresholds, np.float32), 'thresholds')
    built = helper.make_graph(
        nodes,
        info.name or 'mmdefect',
        [
            helper.make_tensor_value_info('images', TensorProto.UINT8, shape),
            helper.make_tensor_value_info('thresholds', TensorProto.FLOAT, [classes - 1]),
        ],
        [
            helper.make_tensor_value_info('labels', TensorProto.UINT8, shape[:3]),
            helper.make_tensor_value_info('probabilities', TensorProto.FLOAT, [shape[0], classes, *shape[1:3]]),
        ],
        [*core.graph.initializer, *graph.constants, defaults],
    )
    model = helper.make_model(built, opset_imports=core.opset_import, producer_name='mmdefect')
    model.ir_version = min(core.ir_version, 9) or 8  # what runtimes of the last years read
    helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.checker.check_model(model)
    return model


def _prepare(graph: GraphBuilder, preparation: Preparation, size_hw: tuple[int, int] | None) -> str:
    value = 'images'
    if preparation.scale_hw is not None and (size_hw is None or preparation.network_size(size_hw) != tuple(size_hw)):
        value = (
            _resize_images(graph, preparation, size_hw)
            if size_hw is not None
            else _resize_if_needed(graph, preparation)
        )
    else:
        value = graph.add('Cast', value, to=TensorProto.FLOAT)
    value = graph.add('Transpose', value, perm=[0, 3, 1, 2])
    if preparation.bgr:
        value = graph.add('Gather', value, graph.constant([2, 1, 0], np.int64), axis=1)
    mean, std = (np.asarray(v).reshape(1, 3, 1, 1) for v in (preparation.mean, preparation.std))
    value = graph.add('Sub', value, graph.constant(mean, np.float32))
    return graph.add('Div', value, graph.constant(std, np.float32))


def _resize_if_needed(graph: GraphBuilder, preparation: Preparation) -> str:
    """Resize images of any size, but not those that have the size of the network already: they need no interpolation."""
    old, new = _image_size(graph), _network_size(graph, preparation, None)
    fits = graph.add('Cast', graph.add('Equal', old, new), to=TensorProto.INT32)
    fits = graph.add('Cast', graph.add('ReduceMin', fits, keepdims=0), to=TensorProto.BOOL)
    outer, branches = graph.nodes, []
    for name, build in (
        ('keep', lambda: graph.add('Cast', 'images', to=TensorProto.FLOAT)),
        ('resize', lambda: _resize_images(graph, preparation, None)),
    ):
        graph.nodes = []
        result = helper.make_tensor_value_info(build(), TensorProto.FLOAT, ['N', None, None, 3])
        branches.append(helper.make_graph(graph.nodes, f'around_{name}', [], [result]))
    graph.nodes = outer
    return graph.add('If', fits, then_branch=branches[0], else_branch=branches[1])


def _network_size(graph: GraphBuilder, preparation: Preparation, size_hw: tuple[int, int] | None) -> str:
    """Return the name of the two sides, int64: a constant, or computed in double as mmcv does."""
    if size_hw is not None or not preparation.keep_ratio:
        return graph.constant(preparation.network_size(size_hw or (0, 0)), np.int64)
    sides = graph.add('Cast', _image_size(graph), to=TensorProto.DOUBLE)
    short, long = sorted(preparation.scale_hw)
    ratios = [
        graph.add('Div', graph.constant([bound], np.float64), graph.add(kind, sides, keepdims=1))
        for bound, kind in ((long, 'ReduceMax'), (short, 'ReduceMin'))
    ]
    factor = graph.add('Min', *ratios)
    scaled = graph.add('Add', graph.add('Mul', sides, factor), graph.constant(0.5, np.float64))
    return graph.add('Cast', graph.add('Floor', scaled), to=TensorProto.INT64)


def _image_size(graph: GraphBuilder) -> str:
    """Return the name of rows and columns of the images, int64."""
    shape = graph.add('Shape', 'images')
    return graph.add('Slice', shape, graph.constant([1], np.int64), graph.constant([3], np.int64))


def _resize_images(graph: GraphBuilder, preparation: Preparation, size_hw: tuple[int, int] | None) -> str:
    """Repeat ``network.resize_images``: rows, then columns, in whole numbers."""
    value, old, new = 'images', _image_size(graph), _network_size(graph, preparation, size_hw)
    for axis, scale in ((1, VALUE_STEPS / WEIGHT_STEPS), (2, 1 / (VALUE_STEPS * WEIGHT_STEPS))):
        index = graph.constant(axis - 1, np.int64)
        low, high, weight = _interpolation(graph, graph.add('Gather', old, index), graph.add('Gather', new, index))
        weight = graph.add('Reshape', weight, graph.constant([-1, 1, 1] if axis == 1 else [-1, 1], np.int64))
        first, second = (
            graph.add('Cast', graph.add('Gather', value, side, axis=axis), to=TensorProto.FLOAT) for side in (low, high)
        )
        rest = graph.add('Sub', graph.constant(WEIGHT_STEPS, np.float32), weight)
        mixed = graph.add('Add', graph.add('Mul', first, rest), graph.add('Mul', second, weight))
        value = graph.add('Mul', mixed, graph.constant(scale, np.float32))
        value = graph.add('Floor', graph.add('Add', value, graph.constant(0.5, np.float32)))
    return value


def _interpolation(graph: GraphBuilder, length: str, new_length: str) -> tuple[str, str, str]:
    """Repeat ``network.interpolation``; a runtime folds it away where the sizes are fixed."""
    zero, one, half = (graph.constant(v, np.float64) for v in (0, 1, 0.5))
    steps = graph.add('Range', graph.constant(0, np.int64), new_length, graph.constant(1, np.int64))
    steps = graph.add('Add', graph.add('Cast', steps, to=TensorProto.DOUBLE), half)
    old, new = (graph.add('Cast', side, to=TensorProto.DOUBLE) for side in (length, new_length))
    position = graph.add('Sub', graph.add('Mul', steps, graph.add('Div', old, new)), half)
    last = graph.add('Sub', old, one)
    position = graph.add('Min', graph.add('Max', position, zero), last)
    low = graph.add('Floor', position)
    weight = graph.add('Mul', graph.add('Sub', position, low), graph.constant(WEIGHT_STEPS, np.float64))
    weight = graph.add('Cast', graph.add('Floor', graph.add('Add', weight, half)), to=TensorProto.FLOAT)
    high = graph.add('Min', graph.add('Add', low, one), last)
    return graph.add('Cast', low, to=TensorProto.INT64), graph.add('Cast', high, to=TensorProto.INT64), weight


def _resize(graph: GraphBuilder, value: str, size: str, align_corners: bool) -> str:
    lead = graph.add('Slice', graph.add('Shape', value), graph.constant([0], np.int64), graph.constant([2], np.int64))
    sizes = graph.add('Concat', lead, size, axis=0)
    mode = 'align_corners' if align_corners else 'half_pixel'
    return graph.add('Resize', value, '', '', sizes, mode='linear', coordinate_transformation_mode=mode)


def _decide(
    graph: GraphBuilder, logits: str, preparation: Preparation, info: ModelInfo, size_hw: tuple[int, int] | None
) -> None:
    if size_hw is None or preparation.network_size(size_hw) != tuple(size_hw):
        target = _image_size(graph) if size_hw is None else graph.constant(size_hw, np.int64)
        logits = _resize(graph, logits, target, preparation.align_corners)
    classes = len(info.classes)
    if preparation.activation == 'softmax':
        single = _softmax(graph, logits, classes)
    else:
        one = graph.constant(1, np.float32)
        odds = preparation.activation == 'odds'
        defect = graph.add('Div', logits, graph.add('Add', logits, one)) if odds else graph.add('Sigmoid', logits)
        single = [graph.add('Sub', one, defect), defect]
    graph.add('Concat', *single, axis=1, output='probabilities')
    factors = graph.add('Div', graph.add('Sub', graph.constant(1, np.float32), 'thresholds'), 'thresholds')
    best, chosen = single[0], None
    for k in range(1, classes):
        value = graph.add('Mul', single[k], graph.add('Gather', factors, graph.constant([k - 1], np.int64)))
        better = graph.add('Greater', value, best)
        if chosen is None:  # the only class so far
            chosen = graph.add('Cast', better, to=TensorProto.UINT8)
        else:
            chosen = graph.add('Where', better, graph.constant(k, np.uint8), chosen)
        best = graph.add('Max', best, value) if k + 1 < classes else best
    graph.add('Squeeze', chosen, graph.constant([1], np.int64), output='labels')


def _softmax(graph: GraphBuilder, logits: str, classes: int) -> Sequence[str]:
    """Return the channels of a softmax, one name each: element by element, which is faster than over a strided axis."""
    parts = graph.add('Split', logits, graph.constant([1] * classes, np.int64), outputs=classes, axis=1)
    highest = graph.add('Max', *parts)
    powers = [graph.add('Exp', graph.add('Sub', part, highest)) for part in parts]
    total = graph.add('Sum', *powers)
    return [graph.add('Div', power, total) for power in powers]
