from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thingstuff.model.backbone import Backbone
from thingstuff.model.folding import fold_norms

EXAMPLE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def norms(body: nn.Module) -> int:
    return sum(hasattr(module, "running_mean") for module in body.modules())


def unsettle(body: nn.Module) -> None:
    """Norms of a new network do nothing; here they do."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in body.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet14t", {"norm": "frozen_batch"}),
        ("resnet14t", {"norm": "batch", "deformable_stages": 1}),
        ("cs3darknet_s", {"norm": "batch"}),  # norms that hold the activation
        ("cs3darknet_s", {"norm": "frozen_batch"}),
    ],
)
def test_features_stay_without_any_norm(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    body = Backbone(name, **settings).eval().body
    unsettle(body)
    before = {key: tensor.clone() for key, tensor in body.state_dict().items()}
    folded = fold_norms(body, EXAMPLE)
    assert norms(body) > 10
    assert norms(folded) == 0
    picture = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        for actual, expected in zip(folded(picture), body(picture), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert all(torch.equal(tensor, before[key]) for key, tensor in body.state_dict().items())


def test_group_norms_depend_on_the_picture_and_stay() -> None:
    body = Backbone("resnet14t", norm="group").eval().body
    folded = fold_norms(body, EXAMPLE)
    assert sum(isinstance(module, nn.GroupNorm) for module in folded.modules()) > 10


class TwiceUsed(nn.Module):
    """Its convolution's result goes into the norm and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.conv(images)
        return [features + self.norm(features)]


class Shared(nn.Module):
    """One norm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.norm(self.first(images)) + self.norm(self.second(images))]


@pytest.mark.parametrize("make", [TwiceUsed, Shared])
def test_what_cannot_be_folded_stays(make: Callable[[], nn.Module]) -> None:
    body = make().eval()
    unsettle(body)
    folded = fold_norms(body, EXAMPLE)
    assert norms(folded) == 1
    assert torch.equal(folded(EXAMPLE)[0], body(EXAMPLE)[0])
