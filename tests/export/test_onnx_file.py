"""What is done to a graph after the exporter, on graphs of a few steps."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from thingstuff.export.onnx_file import _move_into_loops, _slice_where_gathered

VALUES = np.arange(35).reshape(5, 7)


def gathering(start: int, shape: list[int]) -> ModelProto:
    """Columns of a table by the numbers from ``start`` to a limit, which come in that shape."""
    constants = {"start": np.array(start), "step": np.array(1), "shape": np.array(shape)}
    nodes = [
        helper.make_node("Range", ["start", "limit", "step"], ["numbers"]),
        helper.make_node("Reshape", ["numbers", "shape"], ["places"]),
        helper.make_node("Gather", ["table", "places"], ["columns"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("table", TensorProto.INT64, (5, 7)),
        helper.make_tensor_value_info("limit", TensorProto.INT64, ()),
    ]
    outputs = [helper.make_tensor_value_info("columns", TensorProto.INT64, [None] * (1 + len(shape)))]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "gathering", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: ModelProto, limit: int) -> np.ndarray:
    checker.check_model(model)
    (columns,) = ReferenceEvaluator(model).run(None, {"table": VALUES, "limit": np.array(limit)})
    return np.asarray(columns)


@pytest.mark.parametrize("limit", [1, 4, 7])
def test_the_first_columns_are_sliced(limit: int) -> None:
    model = gathering(0, [-1])
    _slice_where_gathered(model)
    kinds = [node.op_type for node in model.graph.node]
    assert "Slice" in kinds
    assert "Gather" not in kinds
    assert np.array_equal(run(model, limit), VALUES[:, :limit])


@pytest.mark.parametrize(("start", "shape"), [(1, [-1]), (0, [-1, 1])])
def test_other_columns_are_gathered(start: int, shape: list[int]) -> None:
    model = gathering(start, shape)
    before = run(model, 3)
    _slice_where_gathered(model)
    assert "Gather" in [node.op_type for node in model.graph.node]
    assert np.array_equal(run(model, 3), before)


def test_a_loop_gets_the_constants_that_it_alone_uses() -> None:
    flag = helper.make_tensor_value_info("again", TensorProto.BOOL, ())
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["goes_on"]),
            helper.make_node("Mul", ["before", "own"], ["product"]),
            helper.make_node("Add", ["product", "shared"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, ()),
            flag,
            helper.make_tensor_value_info("before", TensorProto.INT64, ()),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("after", TensorProto.INT64, ()),
        ],
    )
    nodes = [
        helper.make_node("Add", ["start", "shared"], ["first"]),
        helper.make_node("Loop", ["turns", "true", "first"], ["last"], body=body),
    ]
    number = helper.make_tensor_value_info("start", TensorProto.INT64, ())
    result = helper.make_tensor_value_info("last", TensorProto.INT64, ())
    constants = {"turns": 3, "true": True, "own": 2, "shared": 1, "unused": 7}
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "loop", [number], [result], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    _move_into_loops(model)
    checker.check_model(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["turns", "true", "shared", "unused"]
    assert [tensor.name for tensor in model.graph.node[1].attribute[0].g.initializer] == ["own"]
    (last,) = ReferenceEvaluator(model).run(None, {"start": np.array(4)})
    assert last == 2 * (2 * (2 * (4 + 1) + 1) + 1) + 1
