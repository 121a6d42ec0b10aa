"""From an ONNX graph to OpenVINO's own file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openvino
from openvino import opset8, opset13
from openvino.frontend import NodeContext
from openvino.frontend.onnx import ConversionExtension

from thingstuff.checkpoint import write_synced
from thingstuff.runtimes import OPENVINO_SECTION

_CONVOLUTIONS = {
    "Convolution",
    "ConvolutionBackpropData",
    "DeformableConvolution",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
}
_LARGEST = 3e38
Step = tuple[str, ...]
"""Name of a step of the graph; of one inside of a loop, after the name of the loop."""


def write_openvino_file(onnx_path: Path, metadata: Mapping[str, str], path: Path) -> None:
    """Convert a file; the weights stay float32 and stand beside it, in a file that ends in `.bin`.

    All but the learned layers is marked to be computed in float32 also where these are computed in bfloat16, which
    rounds a coordinate near 1,000 to a multiple of 4.
    """
    core = openvino.Core()
    # OpenVINO has the operator, but its ONNX reader does not know it.
    core.add_extension(ConversionExtension("DeformConv", _deformable_convolution))
    model = core.read_model(onnx_path)
    for name, value in metadata.items():
        model.set_rt_info(value, [OPENVINO_SECTION, name])
    clamped = _clamp_pooled_features(model)
    openvino.save_model(model, path, compress_to_fp16=False)
    _mark_precise(path, _steps_without_weights(model) | clamped)


def _clamp_pooled_features(model: openvino.Model) -> set[Step]:
    """Put a step that changes nothing between features and the pooling of regions; its names.

    It takes bfloat16 features, channels last, to float32. Without it OpenVINO makes them channels first on the way,
    where its pooling is 15 times slower.
    """
    clamps: dict[tuple[str, int], openvino.Node] = {}
    for pooling in _poolings(model):
        features = pooling.input_value(0)
        key = features.get_node().get_friendly_name(), features.get_index()
        if key not in clamps:
            clamps[key] = opset13.clamp(features, -_LARGEST, _LARGEST, name=f"pooled_features_{len(clamps)}")
        pooling.input(0).replace_source_output(clamps[key].output(0))
    return {(clamp.get_friendly_name(),) for clamp in clamps.values()}


def _steps_without_weights(model: openvino.Model) -> set[Step]:
    """The steps from the last learned layers to the outputs and to regions that features are pooled from."""
    poolings = _poolings(model)
    found: set[Step] = {(node.get_friendly_name(),) for node in poolings}
    found.update(_back_to_learned([*model.get_results(), *(node.input_value(1).get_node() for node in poolings)])[0])
    return found


def _back_to_learned(ends: Sequence[openvino.Node]) -> tuple[set[Step], set[str]]:
    """The steps from the last learned layers to those at the ends, and the parameters that they begin with."""
    found: set[Step] = set()
    parameters: set[str] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if (name,) in found or _is_learned(node):
            continue
        found.add((name,))
        if kind == "Parameter":
            parameters.add(name)
        elif kind == "Loop":
            inside, begins = _back_to_learned(node.get_function().get_results())
            found.update((name, *step) for step in inside)
            inner = [parameter.get_friendly_name() for parameter in node.get_function().get_parameters()]
            descriptions = node.get_input_descriptions()
            used = {each.input_index for each in descriptions if inner[each.body_parameter_index] in begins}
            waiting += [node.input_value(index).get_node() for index in used]
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return found, parameters


def _poolings(model: openvino.Model) -> list[openvino.Node]:
    return [node for node in model.get_ops() if node.get_type_name() == "ROIAlign"]


def _is_learned(node: openvino.Node) -> bool:
    kind = node.get_type_name()
    return kind in _CONVOLUTIONS or (kind == "MatMul" and node.input_value(1).get_node().get_type_name() == "Constant")


def _mark_precise(path: Path, steps: set[Step]) -> None:
    """Python can write this attribute of OpenVINO's into no model, only into its file."""
    tree = ElementTree.parse(path)
    layers: dict[Step, ElementTree.Element] = {}
    for layer in tree.iterfind("layers/layer"):
        name = layer.get("name", "")
        layers[(name,)] = layer
        layers |= {(name, inner.get("name", "")): inner for inner in layer.iterfind("body/layers/layer")}
    for step, layer in layers.items():
        if step in steps and layer.get("type") not in ("Const", "Parameter", "Result"):
            information = layer.find("rt_info")
            if information is None:
                information = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, information)
            ElementTree.SubElement(information, "attribute", name="precise", version="0")
    write_synced(path, ElementTree.tostring(tree.getroot(), encoding="utf-8", xml_declaration=True))


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
