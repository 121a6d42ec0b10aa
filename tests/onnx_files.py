"""ONNX files that are made in no time."""

from pathlib import Path

import pytest


def identity_file(path: Path, metadata: dict[str, str]) -> Path:
    """An ONNX file that gives back its input."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path
