"""The ONNX graph around the exported network: uint8 images in, labels and probabilities out.

The same steps as :class:`mmdefect.inference.network.DeployedNetwork`, written as ONNX nodes: so sizes may stay open,
the thresholds are an input with a default, and no exporter decides how a resize is spelled.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmdefect.deployment.predictor import METADATA_KEY
from mmdefect.deployment.types import ModelInfo
from mmdefect.functional.heat_maps import LEAST_HEAT, STRETCH
from mmdefect.inference.network import VALUE_STEPS, WEIGHT_STEPS, Preparation

FLOAT, DOUBLE, INT32, INT64, UINT8 = (getattr(TensorProto, n) for n in ('FLOAT', 'DOUBLE', 'INT32', 'INT64', 'UINT8'))


class GraphBuilder:
    """Collects nodes and constants under running names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.count = 0

    def constant(self, value, dtype) -> str:
        """Add a constant; return its name."""
        name = f'around_constant_{len(self.constants)}'
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, outputs: int = 1, **attributes):
        """Add a node; return the name of its output, or of its outputs."""
        names = [output or f'around_{self.count}_{i}' for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f'around_{kind}_{self.count}', **attributes))
        self.count += 1
        return names[0] if outputs == 1 else names

    def cast(self, value: str, kind: int) -> str:
        """Add a cast to a type of ONNX."""
        return self.add('Cast', value, to=kind)


def wrap_core(
    core: onnx.ModelProto, preparation: Preparation, info: ModelInfo, batch: int | None, size_hw: tuple[int, int] | None
) -> onnx.ModelProto:
    """Put preparation and decision around an exported network, for one ``batch`` and ``size_hw``, or any for ``None``.

    The network has one input ``(N, 3, h, w)`` float and one output ``(N, C, h, w)`` logits; its names must not start
    with ``around_``.
    """
    graph = GraphBuilder()
    prepared = _prepare(graph, preparation, size_hw)
    graph.add('Identity', prepared, output=core.graph.input[0].name)
    graph.nodes += core.graph.node
    _decide(graph, core.graph.output[0].name, preparation, len(info.classes), size_hw)
    value, shape, classes = helper.make_tensor_value_info, [batch or 'N', *(size_hw or ('H', 'W'))], len(info.classes)
    inputs = [value('images', UINT8, [*shape, 3]), value('thresholds', FLOAT, [classes - 1])]
    outputs = [value('labels', UINT8, shape), value('probabilities', FLOAT, [shape[0], classes, *shape[1:]])]
    defaults = numpy_helper.from_array(np.asarray(info.thresholds, np.float32), 'thresholds')
    constants = [*core.graph.initializer, *graph.constants, defaults]
    built = helper.make_graph(graph.nodes, info.name or 'mmdefect', inputs, outputs, constants)
    model = helper.make_model(built, opset_imports=core.opset_import, producer_name='mmdefect')
    model.ir_version = min(core.ir_version, 9) or 8  # what runtimes of the last years read
    helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.checker.check_model(model)
    return model


def _prepare(graph: GraphBuilder, preparation: Preparation, size_hw: tuple[int, int] | None) -> str:
    if preparation.scale_hw is None or (size_hw is not None and preparation.network_size(size_hw) == tuple(size_hw)):
        value = graph.cast('images', FLOAT)
    elif size_hw is not None:
        value = _resize_images(graph, preparation, size_hw)
    else:
        value = _resize_if_needed(graph, preparation)
    value = graph.add('Transpose', value, perm=[0, 3, 1, 2])
    if preparation.bgr:
        value = graph.add('Gather', value, graph.constant([2, 1, 0], np.int64), axis=1)
    mean, std = (np.asarray(v).reshape(1, 3, 1, 1) for v in (preparation.mean, preparation.std))
    value = graph.add('Sub', value, graph.constant(mean, np.float32))
    return graph.add('Div', value, graph.constant(std, np.float32))


def _resize_if_needed(graph: GraphBuilder, preparation: Preparation) -> str:
    """Resize images of any size, but not those that have the size of the network already."""
    fits = graph.cast(graph.add('Equal', _image_size(graph), _network_size(graph, preparation, None)), INT32)
    fits = graph.cast(graph.add('ReduceMin', fits, keepdims=0), TensorProto.BOOL)
    outer, branches = graph.nodes, []
    keep, resize = lambda: graph.cast('images', FLOAT), lambda: _resize_images(graph, preparation, None)
    for name, build in (('keep', keep), ('resize', resize)):
        graph.nodes = []
        result = helper.make_tensor_value_info(build(), FLOAT, ['N', None, None, 3])
        branches.append(helper.make_graph(graph.nodes, f'around_{name}', [], [result]))
    graph.nodes = outer
    return graph.add('If', fits, then_branch=branches[0], else_branch=branches[1])


def _network_size(graph: GraphBuilder, preparation: Preparation, size_hw: tuple[int, int] | None) -> str:
    """Return the name of the two sides, int64: a constant, or computed in double as mmcv does."""
    if size_hw is not None or not preparation.keep_ratio:
        return graph.constant(preparation.network_size(size_hw or (0, 0)), np.int64)
    sides = graph.cast(_image_size(graph), DOUBLE)
    short, long = (graph.constant([bound], np.float64) for bound in sorted(preparation.scale_hw))
    by_long = graph.add('Div', long, graph.add('ReduceMax', sides, keepdims=1))
    by_short = graph.add('Div', short, graph.add('ReduceMin', sides, keepdims=1))
    scaled = graph.add('Mul', sides, graph.add('Min', by_long, by_short))
    return graph.cast(graph.add('Floor', graph.add('Add', scaled, graph.constant(0.5, np.float64))), INT64)


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
        first, second = (graph.cast(graph.add('Gather', value, side, axis=axis), FLOAT) for side in (low, high))
        rest = graph.add('Sub', graph.constant(WEIGHT_STEPS, np.float32), weight)
        mixed = graph.add('Add', graph.add('Mul', first, rest), graph.add('Mul', second, weight))
        value = graph.add('Mul', mixed, graph.constant(scale, np.float32))
        value = graph.add('Floor', graph.add('Add', value, graph.constant(0.5, np.float32)))
    return value


def _interpolation(graph: GraphBuilder, length: str, new_length: str) -> tuple[str, str, str]:
    """Repeat ``network.interpolation``; a runtime folds it away where the sizes are fixed."""
    zero, one, half = (graph.constant(v, np.float64) for v in (0, 1, 0.5))
    steps = graph.add('Range', graph.constant(0, np.int64), new_length, graph.constant(1, np.int64))
    steps = graph.add('Add', graph.cast(steps, DOUBLE), half)
    old, new = graph.cast(length, DOUBLE), graph.cast(new_length, DOUBLE)
    position = graph.add('Sub', graph.add('Mul', steps, graph.add('Div', old, new)), half)
    last = graph.add('Sub', old, one)
    position = graph.add('Min', graph.add('Max', position, zero), last)
    low = graph.add('Floor', position)
    weight = graph.add('Mul', graph.add('Sub', position, low), graph.constant(WEIGHT_STEPS, np.float64))
    weight = graph.cast(graph.add('Floor', graph.add('Add', weight, half)), FLOAT)
    high = graph.add('Min', graph.add('Add', low, one), last)
    return graph.cast(low, INT64), graph.cast(high, INT64), weight


def _decide(
    graph: GraphBuilder, logits: str, preparation: Preparation, classes: int, size_hw: tuple[int, int] | None
) -> None:
    """Resize the outputs of the network to the image; add the outputs ``probabilities`` and ``labels``."""
    if size_hw is None or preparation.network_size(size_hw) != tuple(size_hw):
        size = _image_size(graph) if size_hw is None else graph.constant(size_hw, np.int64)
        ends = graph.constant([0], np.int64), graph.constant([2], np.int64)
        sizes = graph.add('Concat', graph.add('Slice', graph.add('Shape', logits), *ends), size, axis=0)
        mode = 'align_corners' if preparation.align_corners else 'half_pixel'
        logits = graph.add('Resize', logits, '', '', sizes, mode='linear', coordinate_transformation_mode=mode)
    single = _activate(graph, logits, preparation.activation, classes)
    graph.add('Concat', *single, axis=1, output='probabilities')
    factors = graph.add('Div', graph.add('Sub', graph.constant(1, np.float32), 'thresholds'), 'thresholds')
    best, chosen = single[0], ''
    for k in range(1, classes):
        value = graph.add('Mul', single[k], graph.add('Gather', factors, graph.constant([k - 1], np.int64)))
        better = graph.add('Greater', value, best)
        chosen = graph.add('Where', better, graph.constant(k, np.uint8), chosen) if k > 1 else graph.cast(better, UINT8)
        best = graph.add('Max', best, value) if k + 1 < classes else best
    graph.add('Squeeze', chosen, graph.constant([1], np.int64), output='labels')


def _activate(graph: GraphBuilder, outputs: str, activation: str, classes: int) -> list[str]:
    """Return the probability of each class; a softmax element by element, which is faster than over a strided axis."""
    if activation == 'softmax':
        parts = graph.add('Split', outputs, graph.constant([1] * classes, np.int64), outputs=classes, axis=1)
        highest = graph.add('Max', *parts)
        powers = [graph.add('Exp', graph.add('Sub', part, highest)) for part in parts]
        total = graph.add('Sum', *powers)
        return [graph.add('Div', power, total) for power in powers]
    one = graph.constant(1, np.float32)
    odds = activation == 'odds'
    if odds:  # functional.heat_maps.decide_heat
        heat, score = graph.add('Split', outputs, graph.constant([1, 1], np.int64), outputs=2, axis=1)
        heat = graph.add('Max', heat, graph.constant(LEAST_HEAT, np.float32))
        factor = graph.add('Mul', score, graph.constant(STRETCH, np.float32))
        factor = graph.add('Max', graph.add('Div', factor, graph.add('ReduceMax', heat, axes=[2, 3])), one)
        outputs = graph.add('Min', graph.add('Mul', heat, factor), score)
    defect = graph.add('Div', outputs, graph.add('Add', outputs, one)) if odds else graph.add('Sigmoid', outputs)
    return [graph.add('Sub', one, defect), defect]
