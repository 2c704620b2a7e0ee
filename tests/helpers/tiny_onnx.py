"""An exported file without a training: the stand-in of the server tests as a graph of ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmdefect.deployment.types import ModelInfo


def write_tiny_model(path: Path, info: ModelInfo) -> Path:
    """Write a file as ``tools/export.py`` does: dark pixels are of the first defect class, blue ones of the second.

    Args:
        path: of the file.
        info: of three classes.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, value, dtype=np.float32):
        return numpy_helper.from_array(np.asarray(value, dtype), name)

    constants = [
        constant('axes', [3], np.int64),
        constant('at', [1], np.int64),
        constant('one', 1),
        constant('zero', 0),
        constant('full', 255),
        constant('dark', 0.95),
        constant('blue', 0.9),
        constant('r', 0, np.int64),
        constant('b', 2, np.int64),
        constant('column', [1, -1, 1, 1], np.int64),
        constant('first', [[[[1]]]]),
        constant('thresholds', info.thresholds),
    ]
    node = helper.make_node
    nodes = [
        node('Cast', ['images'], ['float'], to=TensorProto.FLOAT),
        node('Div', ['float', 'full'], ['x']),
        node('ReduceMax', ['x', 'axes'], ['top'], keepdims=0),
        node('Sub', ['one', 'top'], ['below']),
        node('Mul', ['below', 'dark'], ['dent']),
        node('Gather', ['x', 'r'], ['red'], axis=3),
        node('Gather', ['x', 'b'], ['blueness'], axis=3),
        node('Sub', ['blueness', 'red'], ['difference']),
        node('Clip', ['difference', 'zero', 'one'], ['positive']),
        node('Mul', ['positive', 'blue'], ['stain']),
        node('Sub', ['one', 'stain'], ['rest']),
        node('Sub', ['rest', 'dent'], ['raw']),
        *(node('Unsqueeze', [name, 'at'], [f'{name}_plane']) for name in ('raw', 'dent', 'stain')),
        node('Concat', ['raw_plane', 'dent_plane', 'stain_plane'], ['stacked'], axis=1),
        node('Clip', ['stacked', 'zero', 'one'], ['probabilities']),
        node('Sub', ['one', 'thresholds'], ['inverse']),
        node('Div', ['inverse', 'thresholds'], ['odds']),
        node('Reshape', ['odds', 'column'], ['factors']),
        node('Concat', ['first', 'factors'], ['scale'], axis=1),
        node('Mul', ['probabilities', 'scale'], ['weighted']),
        node('ArgMax', ['weighted'], ['best'], axis=1, keepdims=0),
        node('Cast', ['best'], ['labels'], to=TensorProto.UINT8),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'tiny',
        [value('images', TensorProto.UINT8, ['n', 'h', 'w', 3]), value('thresholds', TensorProto.FLOAT, [2])],
        [
            value('labels', TensorProto.UINT8, ['n', 'h', 'w']),
            value('probabilities', TensorProto.FLOAT, ['n', 3, 'h', 'w']),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)
    helper.set_model_props(model, {'mmdefect': info.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
