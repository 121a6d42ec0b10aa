"""From an ONNX graph to OpenVINO's own file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino
from openvino import opset8, opset13
from openvino.frontend import NodeContext
from openvino.frontend.onnx import ConversionExtension

from thingstuff.runtimes import OPENVINO_SECTION


def write_openvino_file(onnx_path: Path, metadata: Mapping[str, str], path: Path) -> None:
    """Convert a file; the weights stay float32 and stand beside it, in a file that ends in `.bin`."""
    core = openvino.Core()
    # OpenVINO has the operator, but its ONNX reader does not know it.
    core.add_extension(ConversionExtension("DeformConv", _deformable_convolution))
    model = core.read_model(onnx_path)
    for name, value in metadata.items():
        model.set_rt_info(value, [OPENVINO_SECTION, name])
    openvino.save_model(model, path, compress_to_fp16=False)


def _deformable_convolution(node: NodeContext) -> list[openvino.Output]:
    features, weight, offset = (node.get_input(index) for index in range(3))
    pads = node.get_attribute("pads")
    result = opset8.deformable_convolution(
        features,
        offset,
        weight,
        node.get_attribute("strides"),
        pads[:2],
        pads[2:],
        node.get_attribute("dilations"),
        group=node.get_attribute("group"),
        deformable_group=node.get_attribute("offset_group"),
        bilinear_interpolation_pad=True,
    )
    if node.get_input_size() > 3:
        bias = opset13.unsqueeze(node.get_input(3), np.array([0, 2, 3], dtype=np.int64))
        result = opset13.add(result, bias)
    return result.outputs()
