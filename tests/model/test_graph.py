"""Backbone, neck, heads and suppression are one graph: exporter and compiler compute exactly what eager does."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product

import jaxtyping
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from thingstuff import structures
from thingstuff.model import rpn
from thingstuff.model.panoptic import PanopticSegmenter

pytestmark = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")

CLASSES = "network.region.box_head.outputs.classes.bias"
RPN_DELTAS = "network.rpn.deltas.bias"
DETECTIONS = 12
NOISE = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
PICTURES = {
    "noise": (NOISE, [[64, 96], [64, 96]]),
    "mixed sizes": (NOISE, [[64, 96], [33, 50]]),
    "one pixel": (NOISE, [[1, 1], [64, 96]]),
    "black": (torch.zeros_like(NOISE), [[64, 96], [64, 96]]),
}


class Flat(nn.Module):
    """The network as exporters want it: tensors in, a tuple of tensors out."""

    def __init__(self, network: PanopticSegmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images, sizes)
        found, semantic = outputs.instances, outputs.semantic
        assert found is not None
        assert found.mask_logits is not None
        assert semantic is not None
        return found.boxes, found.scores, found.labels, found.valid, found.mask_logits, semantic.logits


@pytest.fixture(scope="module", autouse=True)
def as_in_production() -> Iterator[None]:
    """Shape checks, which only tests have, are taken out: the compiler cannot see through them."""
    with pytest.MonkeyPatch.context() as patch, torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for record in (*vars(structures).values(), *vars(rpn).values()):
            if dataclasses.is_dataclass(record) and isinstance(record, type):
                patch.setattr(record, "__init__", inspect.unwrap(record.__init__))
        with torch.no_grad():
            yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def network(as_in_production: None, make_network: Callable[..., PanopticSegmenter]) -> Flat:
    network = Flat(make_network())
    generator = torch.Generator().manual_seed(1)
    network.get_parameter(CLASSES.replace("bias", "weight")).normal_(std=3, generator=generator)
    return network


@pytest.fixture(scope="module")
def biases(network: Flat) -> Mapping[str, dict[str, Tensor]]:
    """Weights that make the picture of noise have many detections, none, one, and other odd numbers of them."""
    classes = network.get_parameter(CLASSES).clone()
    deltas = network.get_parameter(RPN_DELTAS).clone()
    background = classes.new_tensor([0.0, 0.0, 1.0])
    first_class = classes.new_tensor([1000.0, 0.0, 0.0])
    growth = classes.new_tensor([0.0, 0.0, 10.0, 10.0]).repeat(3)
    return {
        "many": {CLASSES: classes, RPN_DELTAS: deltas},
        "none": {CLASSES: classes + 1000 * background, RPN_DELTAS: deltas},
        "one candidate": {CLASSES: classes + _rarity(network) * background, RPN_DELTAS: deltas},
        # Every proposal grows to the whole picture, and of equal boxes one survives.
        "one survivor of many": {CLASSES: classes + first_class, RPN_DELTAS: deltas + growth},
        "no proposal": {CLASSES: classes, RPN_DELTAS: deltas * torch.nan},
    }


def _rarity(network: Flat) -> float:
    """How much more likely background has to be for the pictures of noise to have one detection together."""
    bias, low, high = network.get_parameter(CLASSES), 0.0, 100.0
    original = bias.clone()
    while True:
        middle = (low + high) / 2
        bias.copy_(original)
        bias[-1] += middle
        count = int(network(NOISE, torch.tensor(PICTURES["noise"][1]))[3].sum())
        if count == 1:
            bias.copy_(original)
            return middle
        low, high = (middle, high) if count > 1 else (low, middle)


@pytest.fixture(scope="module")
def program(network: Flat) -> torch.export.ExportedProgram:
    return torch.export.export(network, (NOISE, torch.tensor(PICTURES["noise"][1])), strict=True)


@pytest.fixture(scope="module")
def exported(program: torch.export.ExportedProgram) -> nn.Module:
    return program.module()


def _set(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        module.get_parameter(name).copy_(value)


def _assert_equal(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Bit for bit; but eager computes masks of valid rows alone, and how many there are may show in a last digit."""
    *_, valid, mask_logits, _ = expected
    for mine, eager in zip(actual, expected, strict=True):
        if eager is mask_logits:
            torch.testing.assert_close(mine[valid], eager[valid], rtol=1e-5, atol=1e-6)
        else:
            torch.testing.assert_close(mine, eager, rtol=0, atol=0)


def _expected_survivors(case: str, valid: Tensor) -> bool:
    counts = valid.sum(dim=1).tolist()
    match case:
        case "many":
            return counts == [DETECTIONS, DETECTIONS]
        case "none" | "no proposal":
            return counts == [0, 0]
        case "one candidate":
            return sorted(counts) == [0, 1]
        case _:
            return counts == [1, 1]


CASES = ("many", "none", "one candidate", "one survivor of many", "no proposal")


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_what_they_are_called(network: Flat, biases: Mapping[str, dict[str, Tensor]], case: str) -> None:
    _set(network, biases[case])
    outputs = network(NOISE, torch.tensor(PICTURES["noise"][1]))
    assert _expected_survivors(case, outputs[3])


def _by_the_steps_of_a_graph(network: Flat, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    """Run as it stands, but with torchvision's RoIAlign, which graphs have: it differs in the last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        return network(images, sizes)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("case", CASES)
def test_exported_graph_equals_eager(
    network: Flat, exported: nn.Module, biases: Mapping[str, dict[str, Tensor]], case: str, picture: str
) -> None:
    images, sizes = PICTURES[picture][0], torch.tensor(PICTURES[picture][1])
    for module in (network, exported):
        _set(module, biases[case])
    _assert_equal(exported(images, sizes), _by_the_steps_of_a_graph(network, images, sizes))


def test_compiled_graph_equals_eager_without_break_and_without_compiling_again(
    network: Flat, biases: Mapping[str, dict[str, Tensor]]
) -> None:
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for case, (images, sizes) in product(CASES, PICTURES.values()):
            _set(network, biases[case])
            expected = _by_the_steps_of_a_graph(network, images, torch.tensor(sizes))
            _assert_equal(compiled(images, torch.tensor(sizes)), expected)


def test_sizes_depend_on_the_data_only_inside_suppression(program: torch.export.ExportedProgram) -> None:
    places = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and free_unbacked_symbols(value):
            frames = re.findall(r'thingstuff/(\S+)", line \d+, in (\w+)', node.meta["stack_trace"].replace("\\", "/"))
            places.add(frames[-1])
    assert places == {("model/nms.py", "keep_mask"), ("model/nms.py", "multiclass_nms")}


def test_results_of_the_graph_have_fixed_sizes(program: torch.export.ExportedProgram) -> None:
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    shapes = [tuple(node.meta["val"].shape) for node in output.args[0]]
    masks, logits = (2, DETECTIONS, 28, 28), (2, 4, 16, 24)
    assert shapes == [(2, DETECTIONS, 4), (2, DETECTIONS), (2, DETECTIONS), (2, DETECTIONS), masks, logits]
    assert all(isinstance(side, int) for shape in shapes for side in shape)
