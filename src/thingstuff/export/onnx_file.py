"""From a network to an ONNX file: one graph of standard operators, opset 20."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxscript
import onnxscript.optimizer
import torch
from onnx_ir.passes import common as passes
from onnxscript import rewriter
from onnxscript.rewriter.rules import common as rules

from thingstuff.export.graph import CANVAS, ExportedGraph, quiet, trace
from thingstuff.runtimes import IMAGES, OUTPUT_SIZE

op: Any = onnxscript.opset20
OPSET = 20
"""The first with a deformable convolution that exporters write correctly is 19."""
_FAR_AWAY = -1e5
_LARGEST_CONSTANT = 2**16
"""Elements; larger ones are not computed beforehand, so that no file is full of zeros that a loop begins with."""
_RULES = (
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.fuse_batchnorm_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
)
"""Of onnxscript's rules, those that suit these graphs. ``slice_split_rule`` takes minutes in thousands of nodes."""


def to_onnx(graph: ExportedGraph, batch: int, channels: int, dtype: torch.dtype) -> onnx.ModelProto:
    """Write the graph down in ONNX's operators."""
    program = trace(graph, batch, channels, dtype)
    with quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[IMAGES, CANVAS],
            output_names=list(graph.output_names),
            custom_translation_table={
                torch.ops.thingstuff.suppress.default: _suppress,
                torch.ops.torchvision.nms.default: _nms,
                torch.ops.torchvision.roi_align.default: _roi_align,
            },
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        _simplify(exported.model)
    model = exported.model_proto
    _take_size_as_numbers(model)
    _slice_where_gathered(model)
    _move_into_loops(model)
    return model


# --- operators ---


def _suppress(
    boxes: onnxscript.FLOAT, scores: onnxscript.FLOAT, score_threshold: float, iou_threshold: float
) -> onnxscript.BOOL:
    """``graph.suppress``: the rows are what ONNX calls a batch."""
    limit = np.iinfo(np.int64).max
    picked = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), limit, iou_threshold, score_threshold)
    places = op.Gather(picked, [0, 2], axis=1)
    ones = op.ConstantOfShape(op.Shape(places, start=0, end=1), value=_whole(1))
    return op.Cast(
        op.ScatterND(op.ConstantOfShape(op.Shape(scores), value=_whole(0)), places, ones), to=onnx.TensorProto.BOOL
    )


def _nms(boxes: onnxscript.FLOAT, scores: onnxscript.FLOAT, iou_threshold: float) -> onnxscript.INT64:
    """Torchvision's operator, with the threshold of scores that runtimes disagree about where it is missing."""
    limit, lowest = np.iinfo(np.int64).max, float(np.finfo(np.float32).min)
    picked = op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), op.Unsqueeze(scores, [0, 1]), limit, iou_threshold, lowest)
    return op.Squeeze(op.Slice(picked, [2], [3], [1]), [1])


def _roi_align(
    features: onnxscript.FLOAT,
    rois: onnxscript.FLOAT,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> onnxscript.FLOAT:
    """Torchvision's operator. A region without extent becomes a pixel outside of the picture: both give zeros.

    Without that, runtimes divide by its number of samples, which is zero; a pixel has one sample in each bin.
    """
    boxes = op.Slice(rois, [1], [5], [1])
    if aligned and sampling_ratio <= 0:
        empty = op.LessOrEqual(op.Sub(op.Slice(rois, [3], [5], [1]), op.Slice(rois, [1], [3], [1])), 0.0)
        empty = op.ReduceMax(op.Cast(empty, to=onnx.TensorProto.FLOAT), [1], keepdims=1)
        elsewhere = op.Constant(value_floats=[_FAR_AWAY, _FAR_AWAY, _FAR_AWAY + 1, _FAR_AWAY + 1])
        boxes = op.Where(op.Greater(empty, 0.0), elsewhere, boxes)
    return op.RoiAlign(
        features,
        boxes,
        op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=onnx.TensorProto.INT64),
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        spatial_scale=spatial_scale,
        output_height=pooled_height,
        output_width=pooled_width,
        sampling_ratio=max(sampling_ratio, 0),
    )


def _whole(value: int) -> onnx.TensorProto:
    return onnx.helper.make_tensor("value", onnx.TensorProto.INT32, [1], [value])


# --- after the exporter ---


def _simplify(model: onnx_ir.Model) -> None:
    """Fold constants, drop what changes nothing and what nothing uses.

    The exporter's own optimizer does the same with all rules (see ``_RULES``).
    """
    passes.InlinePass()(model)
    for _ in range(2):
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, output_size_limit=_LARGEST_CONSTANT)
        rewriter.RewritePass(_RULES)(model)
        passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.NameFixPass()(model)


def _take_size_as_numbers(model: onnx.ModelProto) -> None:
    """Let the file take the size of the map as two numbers; exporters know sizes only as those of tensors."""
    inputs = model.graph.input
    (canvas,) = [value for value in inputs if value.name == CANVAS]
    inputs.remove(canvas)
    inputs.append(onnx.helper.make_tensor_value_info(OUTPUT_SIZE, onnx.TensorProto.INT64, [2]))
    value = onnx.helper.make_tensor("value", onnx.TensorProto.UINT8, [1], [0])
    model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", [OUTPUT_SIZE], [CANVAS], value=value))


def _slice_where_gathered(model: onnx.ModelProto) -> None:
    """Take the first n along a dimension by a slice, which is much faster than by their numbers."""
    constants = _small_constants(model)
    ends: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Range" and [constants.get(name) for name in node.input[::2]] == [[0], [1]]:
            ends[node.output[0]] = node.input[1]
        elif node.op_type == "Reshape" and node.input[0] in ends and constants.get(node.input[1]) == [-1]:
            ends[node.output[0]] = ends[node.input[0]]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Gather" or node.input[1] not in ends:
            model.graph.node.append(node)
            continue
        axis = next((onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "axis"), 0)
        output = node.output[0]
        shape = onnx.helper.make_tensor("value", onnx.TensorProto.INT64, [1], [1])
        for name, value in {f"{output}_first": 0, f"{output}_axis": axis}.items():
            tensor = onnx.helper.make_tensor("value", onnx.TensorProto.INT64, [1], [value])
            model.graph.node.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        model.graph.node.append(onnx.helper.make_node("Constant", [], [f"{output}_shape"], value=shape))
        end = f"{output}_end"
        model.graph.node.append(onnx.helper.make_node("Reshape", [ends[node.input[1]], f"{output}_shape"], [end]))
        inputs = [node.input[0], f"{output}_first", end, f"{output}_axis"]
        model.graph.node.append(onnx.helper.make_node("Slice", inputs, [output]))


def _move_into_loops(model: onnx.ModelProto) -> None:
    """Give a loop the constants that it alone uses: runtimes lay out the weights of a graph only for its own steps."""
    users: dict[str, list[onnx.GraphProto]] = {}
    for graph in _with_inner_graphs(model.graph):
        for name in {name for node in graph.node for name in node.input} | {value.name for value in graph.output}:
            users.setdefault(name, []).append(graph)
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    for tensor in tensors:
        graphs = users.get(tensor.name, [])
        (graphs[0] if len(graphs) == 1 else model.graph).initializer.append(tensor)


def _with_inner_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and those that its steps run."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _with_inner_graphs(attribute.g)


def _small_constants(model: onnx.ModelProto) -> dict[str, list[Any]]:
    """Values of the constants that are one number, with or without a dimension."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    small = {name: tensor for name, tensor in tensors.items() if math.prod(tensor.dims) == 1}
    return {name: onnx.numpy_helper.to_array(tensor).flatten().tolist() for name, tensor in small.items()}
