"""On graphs of a few steps: learned features, regions pooled from them, and a learned layer on top; and a loop."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from thingstuff.export.openvino_file import write_openvino_file  # noqa: E402

WIDTH, CHANNELS = 1024, 16
LAYERS, LAYERS_OF_LOOPS = "layers/layer", "layers/layer/body/layers/layer"


@pytest.fixture
def pooling(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    constants = {
        "kernel": generator.normal(size=(CHANNELS, CHANNELS, 1, 1)),
        "shift": np.full(4, 0.25),
        "weight": generator.normal(size=(CHANNELS * 4, 8)) / 8,
    }
    align = {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "coordinate_transformation_mode": "half_pixel"}
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["features"]),
        helper.make_node("Add", ["regions", "shift"], ["shifted"]),
        helper.make_node("RoiAlign", ["features", "shifted", "pictures"], ["pooled"], **align),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pooling",
        [
            helper.make_tensor_value_info("pixels", TensorProto.FLOAT, (1, CHANNELS, 8, WIDTH)),
            helper.make_tensor_value_info("regions", TensorProto.FLOAT, (None, 4)),
            helper.make_tensor_value_info("pictures", TensorProto.INT64, (None,)),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (None, 8))],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "pooling.onnx")
    write_openvino_file(tmp_path / "pooling.onnx", {"credit": "nobody's"}, tmp_path / "pooling.xml")
    return tmp_path / "pooling.xml"


def run(path: Path, precision: str) -> np.ndarray:
    """Regions of 3 pixels, at every place of a wide map."""
    left = np.arange(0, WIDTH - 4, 7, dtype=np.float32)
    edges = np.zeros_like(left)
    pixels = np.random.default_rng(1).normal(size=(1, CHANNELS, 8, WIDTH)).astype(np.float32)
    inputs = {
        "pixels": pixels,
        "regions": np.stack([left, edges + 2, left + 3, edges + 5], axis=1),
        "pictures": np.zeros(len(left), dtype=np.int64),
    }
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": precision}
    )
    return compiled(inputs)["scores"]


def marked(path: Path, layers: str) -> set[str | None]:
    """Kinds of the layers in a file that are to be computed in float32."""
    found = ElementTree.parse(path).getroot().findall(layers)
    return {layer.get("type") for layer in found if layer.find("rt_info/attribute[@name='precise']") is not None}


def test_coordinates_stay_exact_where_layers_are_computed_in_bfloat16(pooling: Path) -> None:
    exact, coarse = run(pooling, "f32"), run(pooling, "bf16")
    # A region that lay a pixel further would give quite other numbers.
    np.testing.assert_allclose(coarse, exact, atol=0.05 * exact.std())


def test_what_is_marked(pooling: Path) -> None:
    assert marked(pooling, LAYERS) == {"Add", "Clamp", "ROIAlign"}
    assert openvino.Core().read_model(pooling).get_rt_info(["thingstuff", "credit"]).astype(str) == "nobody's"


def test_steps_of_loops_are_marked_as_well(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["goes_on"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, ()),
            helper.make_tensor_value_info("again", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, (2,)),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, (2,)),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "", "start"], ["sums"], body=body)],
        "sums",
        [
            helper.make_tensor_value_info("turns", TensorProto.INT64, ()),
            helper.make_tensor_value_info("start", TensorProto.FLOAT, (2,)),
        ],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, (2,))],
        [numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "loop.onnx")
    write_openvino_file(tmp_path / "loop.onnx", {}, tmp_path / "loop.xml")
    assert "Add" in marked(tmp_path / "loop.xml", LAYERS_OF_LOOPS)
    compiled = openvino.Core().compile_model(tmp_path / "loop.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"turns": np.array(3), "start": np.array([1001, 0], dtype=np.float32)})["sums"]
    assert found.tolist() == [1004, 3]


def test_learned_layers_of_loops_are_not_marked(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    kernel = numpy_helper.from_array(generator.normal(size=(4, 4, 1, 1)).astype(np.float32), "kernel")
    inner = numpy_helper.from_array(generator.normal(size=(4, 4, 1, 1)).astype(np.float32), "inner_kernel")
    numbers = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, (1, 4, 8, 8))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["goes_on"]),
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("Conv", ["positive", "inner_kernel"], ["seen"]),
            helper.make_node("Sub", ["before", "seen"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, ()),
            helper.make_tensor_value_info("again", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, (1, 4, 8, 8)),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, (1, 4, 8, 8)),
        ],
        [inner],
    )
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["convolved"]),
        helper.make_node("Abs", ["convolved"], ["features"]),  # goes into a learned layer only
        helper.make_node("Exp", ["pixels"], ["start"]),  # goes into what follows it
        helper.make_node("Loop", ["turns", "", "start"], ["sums"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("turns", TensorProto.INT64, ()), numbers],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, (1, 4, 8, 8))],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "loop.onnx")
    write_openvino_file(tmp_path / "loop.onnx", {}, tmp_path / "loop.xml")
    assert marked(tmp_path / "loop.xml", LAYERS) == {"Exp", "Loop"}
    inside = marked(tmp_path / "loop.xml", LAYERS_OF_LOOPS)
    assert "Subtract" in inside
    assert not inside & {"Convolution", "ReLU"}
