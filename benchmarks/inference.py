"""From a picture to its panoptic map: Panoptic FPN with ResNet-50 in every runtime, and peers, side by side in one run.

Weights are random, made so that outputs are like those of trained networks: frozen norms get the statistics of the
picture; the outputs of the semantic branch, of the classes of regions and of the masks get mean 0 and a deviation of
their own; each class of boxes gets a size of its own, in the middle four times that of the anchors; and the bias of
the background class is searched until as many detections of the 100 as wanted (``--detections``) have a score over
0.5, that is, can enter the map. What was reached stands in the table. Such weights feel rounding more than trained
ones: in bfloat16 fewer detections, or none, are over the threshold. Pictures are procedural scenes at the size that the
networks see, so that nothing is resized.

Peers: torchvision's Mask R-CNN (weights of the same kind, masks pasted at full size, no semantic branch) and, where
transformers and scipy are installed, its Mask2Former with a ResNet-50 and the usual 100 queries. Conversions for ONNX
Runtime and OpenVINO are made anew, each takes a few minutes; so does torch's compiler. Memory is the peak above what
stands after import and loading; what a compiler keeps from the first call on counts.

*Panoptic only*: masks just for detections over the threshold, the same map; measured in eager torch, by a recipe whose
detections have that threshold.

*Distance to the limit*: operations of each stage over what the machine does in a second at its best, a convolution of
256 to 256 channels, 3x3, at 200x304, channels last, against the time that the stage takes in eager torch.

    python benchmarks/inference.py
    python benchmarks/inference.py --runtimes torch --sizes 480x640 800x1216 1024x2048 --instances 10 30 70
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import PRECISIONS, Build, Step, apart, by_size, compare, make_parser, number, print_costs, read_size
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from thingstuff.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from thingstuff.convert.classes import coco_labels
from thingstuff.data.scenes import draw_scene
from thingstuff.errors import InputError
from thingstuff.export import check
from thingstuff.model.build import build_network
from thingstuff.predict import Model
from thingstuff.recipe import derive
from thingstuff.recipes import panoptic_fpn_r50_coco
from thingstuff.runtimes import Runtime
from thingstuff.structures import Precision, Size

RUNTIMES: Mapping[Runtime, tuple[Precision, ...]] = {
    "torch": ("float32", "bfloat16"),
    "onnx": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "compile": ("float32", "bfloat16"),
}
"""Ours, with the precisions of each; bfloat16 only where the machine has it."""
PEERS = ("torchvision", "mask2former")
THRESHOLD = 0.5
"""Detections with a higher score can enter the map."""
FILES = {"ours": "ours.safetensors", "torchvision": "torchvision.pt", "mask2former": "mask2former.pt"}
"""Where the random weights stand while this runs."""


def main() -> None:
    """Measure and print the tables."""
    options = _read_options()
    size: Size = tuple(options.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["THINGSTUFF_CACHE"] = name  # for conversions; the processes of all contenders have it
        write_weights(folder, size, options.detections, options.peers)
        for runtime in options.runtimes:
            apart(partial(convert, folder, runtime))
        for one in options.sizes or [size]:
            contenders = ours(folder, one, options.runtimes) | peers(folder, one, options.peers)
            base = "torchvision" if "torchvision" in contenders else next(iter(contenders))
            costs = compare(contenders, options.rounds, options.threads)
            print_costs(f"picture of {by_size(one)} to map", costs, base)
        if not options.no_limit:
            for precision in PRECISIONS:
                print(apart(partial(limit_table, folder, size, precision, options.rounds, options.threads)))
        for count in options.instances:
            write_weights(folder, size, count, ())
            full, less = (partial(build_ours, folder, size, panoptic_only=only) for only in (False, True))
            costs = compare({"full output": full, "panoptic only": less}, options.rounds, options.threads)
            print_costs(f"{count} instances over the threshold, {by_size(size)}", costs, "full output")


def _read_options() -> argparse.Namespace:
    parser = make_parser(__doc__, size=(800, 1216))
    parser.add_argument("--sizes", type=read_size, nargs="+", help="such as 480x640; instead of --size")
    parser.add_argument("--detections", type=int, default=30, help="how many of the 100 are over the threshold")
    parser.add_argument("--instances", type=int, nargs="*", default=(10, 30, 70), help="for panoptic only")
    parser.add_argument("--runtimes", nargs="+", choices=tuple(RUNTIMES), default=tuple(RUNTIMES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--no-limit", action="store_true", help="leave out the distance to the limit")
    return parser.parse_args()


# --- contenders ---


def ours(folder: Path, size: Size, runtimes: Sequence[Runtime]) -> dict[str, Build]:
    """Ours, by runtime and precision."""
    return {
        f"{runtime}, {precision}": partial(build_ours, folder, size, runtime, precision)
        for runtime in runtimes
        for precision in RUNTIMES[runtime]
        if precision in PRECISIONS
    }


def peers(folder: Path, size: Size, names: Sequence[str]) -> dict[str, Build]:
    """The others."""
    builds = {"torchvision": build_torchvision, "mask2former": build_mask2former}
    return {name: partial(builds[name], folder, size) for name in names}


def build_ours(
    folder: Path,
    size: Size,
    runtime: Runtime = "torch",
    precision: Precision = "float32",
    *,
    panoptic_only: bool = False,
    pictures: int = 1,
) -> Step:
    """Panoptic FPN; of several pictures, one after the other."""
    checkpoint = load_checkpoint(folder / FILES["ours"])
    if panoptic_only:
        recipe = derive(checkpoint.recipe, model__region__score_threshold=THRESHOLD)
        checkpoint = replace(checkpoint, recipe=recipe)
    model = Model(checkpoint, short_side=0, runtime=runtime, precision=precision)
    images = [draw(size)] * pictures

    def step() -> str:
        result = model(images)[-1]
        assert result.instances is not None
        assert result.segments is not None
        return f"{_count(result.instances.scores)}, {len(result.segments)} segments"

    return step


def convert(folder: Path, runtime: Runtime) -> None:
    """Convert ours where a runtime needs that, so that it happens in no process whose memory is measured."""
    if runtime in ("onnx", "openvino"):
        # Where a picture is black, all regions are alike, and which of them stay is decided by rounding.
        refuse = check.refuse
        check.refuse = lambda differences, out: refuse([one for one in differences if "black" not in one.picture], out)
        with suppress(InputError):  # whoever wants the file will say so
            Model(load_checkpoint(folder / FILES["ours"]), runtime=runtime)


def build_torchvision(folder: Path, size: Size, *, pictures: int = 1) -> Step:
    """Mask R-CNN; several pictures at once."""
    network = torchvision_network(size)
    network.load_state_dict(torch.load(folder / FILES["torchvision"]))
    network.eval()
    images = [_as_floats(draw(size))] * pictures

    @torch.inference_mode()
    def step() -> str:
        return _count(network(images)[-1]["scores"].numpy())

    return step


def build_mask2former(folder: Path, size: Size) -> Step:
    """Mask2Former and its own panoptic post-processing, without its image processor."""
    network, processor = mask2former_network()
    network.load_state_dict(torch.load(folder / FILES["mask2former"]))
    network.eval()
    images = _as_floats(draw(size))[None]

    @torch.inference_mode()
    def step() -> str:
        outputs = network(pixel_values=images)
        found = processor.post_process_panoptic_segmentation(outputs, target_sizes=[size])[0]
        queries = int((_query_scores(outputs) > THRESHOLD).sum())
        return f"{queries} queries over the threshold, {len(found['segments_info'])} segments"

    return step


def draw(size: Size) -> np.ndarray:
    """The picture."""
    return draw_scene(0, 0, size).image


def _as_floats(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255


def _count(scores: np.ndarray) -> str:
    return f"{len(scores)} detections, {(scores > THRESHOLD).sum()} over the threshold"


# --- networks with random weights ---


def torchvision_network(size: Size) -> MaskRCNN:
    """``maskrcnn_resnet50_fpn`` as it is with weights: frozen norms, stem and first stage do not learn."""
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    return MaskRCNN(backbone, 91, min_size=min(size), max_size=max(size))


def mask2former_network() -> tuple[Any, Any]:
    """The network and what post-processes; other settings are those of the default, which are COCO's."""
    from transformers import (  # pyright: ignore[reportMissingImports]
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        ResNetConfig,
    )
    from transformers.models.mask2former.image_processing_mask2former import (  # pyright: ignore[reportMissingImports]
        Mask2FormerImageProcessor,
    )

    backbone = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=133)
    return Mask2FormerForUniversalSegmentation(config), Mask2FormerImageProcessor()


@torch.no_grad()
def write_weights(folder: Path, size: Size, wanted: int, peer_names: Sequence[str]) -> None:
    """Draw the weights of all networks.

    Args:
        folder: Where they go.
        size: Of the picture that they are made for.
        wanted: Detections over the threshold.
        peer_names: Ours is always written.
    """
    torch.manual_seed(0)
    labels, recipe = coco_labels(), panoptic_fpn_r50_coco()
    network = build_network(recipe, labels).eval()
    image, sizes = torch.from_numpy(draw(size).transpose(2, 0, 1).copy())[None], torch.tensor([size])
    region, semantic = network.region, network.semantic
    assert isinstance(region, nn.Module)
    assert isinstance(semantic, nn.Module)
    classes: nn.Linear = region.get_submodule("box_head.outputs.classes")  # pyright: ignore[reportAssignmentType]
    spread_sizes(region.get_submodule("box_head.outputs.deltas"))
    make_lifelike(
        lambda: network(image, sizes).instances.scores[0],
        network,
        [(semantic.get_submodule("predictor"), 2), (classes, 2), (region.get_submodule("mask_head.predictor"), 3)],
        classes.bias[-1:],
        wanted,
    )
    save_checkpoint(folder / FILES["ours"], Checkpoint(network.state_dict(), recipe, labels))
    if "torchvision" in peer_names:
        _write_torchvision(folder, size, wanted)
    if "mask2former" in peer_names:
        try:
            _write_mask2former(folder, size, wanted)
        except ImportError:
            return  # the process that wants these weights will say so


def _write_torchvision(folder: Path, size: Size, wanted: int) -> None:
    network = torchvision_network(size).eval()
    images, heads = [_as_floats(draw(size))], network.roi_heads
    predictor: Any = heads.box_predictor
    spread_sizes(predictor.bbox_pred)
    layers = [(predictor.cls_score, 2), (heads.get_submodule("mask_predictor.mask_fcn_logits"), 3)]
    make_lifelike(lambda: network(images)[0]["scores"], network, layers, predictor.cls_score.bias[:1], wanted)
    torch.save(network.state_dict(), folder / FILES["torchvision"])


def _write_mask2former(folder: Path, size: Size, wanted: int) -> None:
    network, _ = mask2former_network()
    network.eval()
    images, predictor = _as_floats(draw(size))[None], network.class_predictor
    see = partial(network, pixel_values=images)
    make_lifelike(lambda: _query_scores(see()), network, [(predictor, 2)], predictor.bias[-1:], wanted)
    torch.save(network.state_dict(), folder / FILES["mask2former"])


def _query_scores(outputs: Any) -> Tensor:
    """How sure each query of Mask2Former is of its class."""
    return outputs.class_queries_logits[0].softmax(dim=1)[:, :-1].amax(dim=1)


def make_lifelike(
    see: Callable[[], Tensor],
    network: nn.Module,
    layers: Sequence[tuple[nn.Module, float]],
    background: Tensor,
    wanted: int,
) -> None:
    """Change random weights until outputs are like those of a trained network.

    Args:
        see: Lets the network see a picture; gives the scores of its detections.
        network: What changes.
        layers: Each with the deviation that its outputs shall have, in the order in which they depend on each other.
        background: Bias of the background class, a view.
        wanted: Detections over the threshold.
    """
    hooks = [
        module.register_forward_pre_hook(_take_statistics)
        for module in network.modules()
        if isinstance(getattr(module, "running_var", None), Tensor)
    ]
    see()
    for hook in hooks:
        hook.remove()
    for layer, deviation in layers:
        hook = layer.register_forward_hook(partial(_standardise, deviation))
        see()
        hook.remove()
    low, high = 0.0, 16.0
    for _ in range(10):
        background.fill_((low + high) / 2)
        over = int((see() > THRESHOLD).sum())
        if over == wanted:
            break
        low, high = ((low + high) / 2, high) if over > wanted else (low, (low + high) / 2)


def _take_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Let a norm that stands still do to this input what a learning one would do."""
    norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))  # pyright: ignore[reportCallIssue]
    norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)) + 1e-5)  # pyright: ignore[reportCallIssue]


def _standardise(deviation: float, layer: nn.Module, _: object, outputs: Tensor) -> None:
    """Change a layer so that each of its outputs has mean 0 and this deviation."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    rows = outputs.movedim(1, -1).flatten(0, -2) if outputs.ndim == 4 else outputs.flatten(0, -2)
    factor = deviation / rows.std(dim=0).clamp(min=1e-6)
    bias.copy_((bias - rows.mean(dim=0)) * factor)
    weight.mul_(factor.view(-1, *[1] * (weight.ndim - 1)))


def spread_sizes(deltas: nn.Module) -> None:
    """Give the boxes of each class a size of its own, in the middle four times that of the region."""
    bias = deltas.get_parameter("bias").view(-1, 4)
    generator = torch.Generator().manual_seed(0)
    growth = math.log(4) + 0.7 * torch.randn(len(bias), 1, generator=generator)
    bias[:, 2:] = 5 * (growth + 0.3 * torch.randn(len(bias), 2, generator=generator))  # deltas count in fifths


# --- distance to the limit ---


class Meter:
    """Counts seconds and operations of the stages of a network, by name.

    Args:
        model: Its network is changed for good.
    """

    def __init__(self, model: Model) -> None:
        network = model.network
        region: Any = network.region
        self.counter = FlopCounterMode(display=False)
        self.spent: dict[str, list[float]] = {}
        for name, owner, attribute in (
            ("backbone + FPN", network.backbone, "forward"),
            ("backbone + FPN", network.neck, "forward"),
            ("RPN", network.rpn, "forward"),
            ("boxes", region.box_pool, "forward"),
            ("boxes", region.box_head, "forward"),
            ("masks", region.mask_pool, "forward"),
            ("masks", region.mask_head, "forward"),
            ("semantic head", network.semantic, "forward"),
            ("merge", network, "fusion"),
        ):
            setattr(owner, attribute, self.watch(name, getattr(owner, attribute)))

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its costs added to a stage."""

        def watched(*inputs: Any, **options: Any) -> Any:
            before = self._now()
            result = function(*inputs, **options)
            so_far = self.spent.get(name, [0.0, 0.0, 0.0])
            self.spent[name] = [a + b - c for a, b, c in zip(so_far, self._now(), before, strict=True)]
            return result

        return watched

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), float(self.counter.get_total_flops())

    def read(self, function: Callable[[], Any]) -> dict[str, list[float]]:
        """Wall seconds, processor seconds and operations of each stage, of what is left, and of all."""
        self.spent = {}
        self.watch("all", function)()
        stages = {name: cost for name, cost in self.spent.items() if name != "all"}
        known = zip(*stages.values(), strict=True)
        rest = [total - sum(column) for total, column in zip(self.spent["all"], known, strict=True)]
        return stages | {"rest (NMS, normalisation, tables)": rest, "all": self.spent["all"]}


def limit_table(folder: Path, size: Size, precision: Precision, rounds: int, threads: int) -> str:
    """The table of one precision; one line where the package does not have it."""
    torch.set_num_threads(threads)
    try:
        model = Model(load_checkpoint(folder / FILES["ours"]), short_side=0, precision=precision)
    except InputError as error:
        return f"{precision}: not measured ({error})\n"
    image, meter = draw(size), Meter(model)
    with meter.counter:
        operations = {name: cost[2] for name, cost in meter.read(lambda: model(image)).items()}
    readings = [meter.read(lambda: model(image)) for _ in range(rounds)]
    convolution, product = machine_rates(getattr(torch, precision), rounds)
    lines = [
        f"{precision}, GFLOP/s: convolution {convolution / 1e9:.0f}, matrix product of 4096 {product / 1e9:.0f}\n",
        f"| stage, {by_size(size)} | GFLOP | limit, s | wall s | CPU s | reached |\n|---|---|---|---|---|---|",
    ]
    for name, count in operations.items():
        wall, processor = (statistics.median(reading[name][column] for reading in readings) for column in (0, 1))
        limit = count / convolution
        reached = f"{limit / wall:.0%}" if count else ""
        cells = (name, f"{count / 1e9:.1f}", number(limit), number(wall), number(processor), reached)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@torch.inference_mode()
def machine_rates(dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """Operations in a second: of a convolution and of a matrix product."""
    convolution = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    convolution.to(dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    features = torch.randn(1, 256, 200, 304).to(dtype=dtype, memory_format=torch.channels_last)
    matrix = torch.randn(4096, 4096).to(dtype)
    tasks: tuple[tuple[float, Callable[[], Tensor]], ...] = (
        (2 * 256 * 256 * 9 * 200 * 304, lambda: convolution(features)),
        (2 * 4096**3, lambda: matrix @ matrix),
    )
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for mine, (_, task) in zip(seconds, tasks, strict=True):
            start = time.perf_counter()
            task()
            mine.append(time.perf_counter() - start)
    first, second = (count / statistics.median(mine[1:]) for mine, (count, _) in zip(seconds, tasks, strict=True))
    return first, second


if __name__ == "__main__":
    main()
