"""What resolution costs: a feature pyramid with Panoptic FPN's semantic head against dilated backbones.

Multiply-adds of convolutions, and the activations that the backward pass needs, of ResNets in training mode with batch
norm, on torch's meta device: nothing is computed, so that sizes do not matter. A dilated network has a 1x1 convolution
to the classes and ends at stride 16 or 8; the semantic head ends at stride 4. Activations are counted as the bytes of
all tensors that autograd keeps, weights left out, each memory once.

The paper's figure, on a picture of two megapixels with ResNet-101: the pyramid costs about as much as dilation 16, with
an output four times as fine, and dilation 8 costs about three times as much in both. (Kirillov et al., Panoptic Feature
Pyramid Networks, arXiv 1901.02446, figure 5; recalled, not read again. Its count of memory need not be this one.)

    python benchmarks/efficiency.py
    python benchmarks/efficiency.py --size 800 1216 --classes 54
"""

import argparse
from collections.abc import Mapping

import timm
import torch
from measuring import by_size, print_row
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thingstuff.model.backbone import Backbone
from thingstuff.model.neck import FPN
from thingstuff.model.semantic import UpsampleSumHead
from thingstuff.structures import Size

NAMES = {"R50": "resnet50", "R101": "resnet101"}


class SemanticFPN(nn.Module):
    """Backbone, pyramid and semantic head.

    Args:
        name: Of timm's backbone.
        classes: Logits for each pixel.
    """

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(name)
        self.neck = FPN(self.backbone.channels, 256)
        self.head = UpsampleSumHead(256, 128, classes, norm="group")

    def forward(self, images: Tensor) -> Tensor:
        """Logits at stride 4."""
        return self.head(self.neck(self.backbone(images))).logits


class Dilated(nn.Module):
    """A backbone that keeps its resolution from some stride on, and a 1x1 convolution.

    Args:
        name: Of timm's backbone.
        classes: Logits for each pixel.
        stride: Of the output.
    """

    def __init__(self, name: str, classes: int, stride: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, features_only=True, out_indices=(4,), output_stride=stride)
        self.head = nn.Conv2d(2048, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits at the stride."""
        return self.head(self.backbone(images)[-1])


def main() -> None:
    """Count and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=19)
    options = parser.parse_args()
    size: Size = tuple(options.size)
    print_row(f"network, {by_size(size)}", "stride", "multiply-adds, G", "times", "activations, GB", "times")
    print("|---|---|---|---|---|---|")
    for short, name in NAMES.items():
        counts = {label: count(network, size) for label, network in networks(name, options.classes).items()}
        base = counts["FPN + semantic head"]
        for label, (operations, memory, stride) in counts.items():
            ratios = f"{operations / base[0]:.2f}", f"{memory / base[1]:.2f}"
            cells = (f"{operations / 1e9:.0f}", ratios[0], f"{memory / 1e9:.2f}", ratios[1])
            print_row(f"{short}, {label}", str(stride), *cells)


def networks(name: str, classes: int) -> Mapping[str, nn.Module]:
    """What is counted, without any weights."""
    with torch.device("meta"):
        return {
            "FPN + semantic head": SemanticFPN(name, classes),
            "dilation 16": Dilated(name, classes, 16),
            "dilation 8": Dilated(name, classes, 8),
        }


def count(network: nn.Module, size: Size) -> tuple[float, int, int]:
    """Multiply-adds, bytes that autograd keeps, and the stride of the output."""
    images = torch.empty(1, 3, *size, device="meta")
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other memory gets its name
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = network.train()(images)
    return counter.get_total_flops() / 2, sum(one.nbytes() for one in kept.values()), size[0] // logits.shape[2]


if __name__ == "__main__":
    main()
