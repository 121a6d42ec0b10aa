"""Backbone, neck, heads and suppression are one graph: exporter and compiler see what eager computes."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from thingstuff.model.panoptic import PanopticSegmenter

pytestmark = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")
CLASSES = "network.region.box_head.outputs.classes.bias"


class Flat(nn.Module):
    """The network as exporters want it: tensors in, a tuple of tensors out."""

    def __init__(self, network: PanopticSegmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images, sizes)
        found = outputs.instances
        return found.boxes, found.scores, found.labels, found.mask_logits, found.valid, outputs.semantic.logits


@pytest.fixture(scope="module")
def network(make_network):
    network = make_network()
    classes = network.region.box_head.outputs.classes
    torch.manual_seed(1)
    with torch.no_grad():
        classes.weight.normal_(std=3)
    return Flat(network)

IMAGES=torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
SIZES=torch.tensor([[64, 96], [40, 33]])

@pytest.fixture(autouse=True)
def production(monkeypatch):
    import jaxtyping, dataclasses
    from thingstuff import structures
    from thingstuff.model import rpn
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for module in (structures, rpn):
        for c in vars(module).values():
            if dataclasses.is_dataclass(c) and hasattr(c.__init__, "__wrapped__"):
                monkeypatch.setattr(c, "__init__", c.__init__.__wrapped__)

@pytest.mark.parametrize("kind", ["export", "strict", "compile"])
def test_x(network, kind):
    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        if kind == "compile":
            g = torch.compile(network, fullgraph=True, backend="eager")
        else:
            g = torch.export.export(network, (IMAGES, SIZES), strict=kind == "strict").module()
        a = network(IMAGES, SIZES)
        b = g(IMAGES, SIZES)
        print(a[1], a[4].sum(1))
        for u, v in zip(a, b): assert torch.equal(u, v)
