"""The network as a whole: normalisation, branches that are off, odd pictures, learning."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.structures import Outputs

Maker = Callable[..., PanopticSegmenter]


@pytest.fixture(scope="module")
def network(make_network: Maker) -> PanopticSegmenter:
    return make_network()


def noise(batch: int = 2, height: int = 64, width: int = 96, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


def predict(network: PanopticSegmenter, images: Tensor, sizes: list[list[int]]) -> Outputs:
    with torch.no_grad():
        return network(images, torch.tensor(sizes))


def normalizer(**options) -> PanopticSegmenter:
    options = {"pixel_mean": (10.0, 20.0, 30.0), "pixel_std": (1.0, 2.0, 5.0), **options}
    return PanopticSegmenter(nn.Identity(), nn.Identity(), None, None, None, None, **options)


# --- normalisation ---


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_normalisation_by_hand(dtype: torch.dtype) -> None:
    images = torch.tensor([12, 26, 55], dtype=dtype).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    normal = normalizer().normalize(images, torch.tensor([[2, 3]]))
    assert normal.dtype == torch.float32
    assert normal[0, :, 1, 2].tolist() == [2, 3, 5]


def test_pictures_are_rgb_whatever_the_network_expects() -> None:
    images = torch.tensor([55, 26, 12], dtype=torch.uint8).view(1, 3, 1, 1)
    normal = normalizer(channel_order="bgr").normalize(images, torch.tensor([[1, 1]]))
    assert normal.flatten().tolist() == [2, 3, 5]


def test_padding_is_the_mean_picture() -> None:
    normal = normalizer().normalize(torch.full((2, 3, 4, 5), 200, dtype=torch.uint8), torch.tensor([[4, 2], [3, 5]]))
    inside = (normal != 0).all(dim=1)
    assert inside[0].tolist() == [[True] * 2 + [False] * 3] * 4
    assert inside[1].tolist() == [[True] * 5] * 3 + [[False] * 5]


def test_pixel_statistics_are_no_weights() -> None:
    assert normalizer().state_dict() == {}


# --- branches ---


def test_both_branches(network: PanopticSegmenter) -> None:
    outputs = predict(network, noise(), [[64, 96], [64, 96]])
    assert outputs.instances is not None
    assert outputs.semantic is not None
    assert outputs.instances.boxes.shape == (2, 12, 4)
    assert outputs.instances.mask_logits is not None
    assert outputs.instances.mask_logits.shape == (2, 12, 28, 28)
    assert outputs.semantic.logits.shape == (2, 4, 16, 24)


def test_semantic_branch_alone(make_network: Maker) -> None:
    network = make_network(model__region=None, model__fusion=None, model__semantic__things="separate")
    outputs = predict(network, noise(), [[64, 96], [64, 96]])
    assert outputs.instances is None
    assert outputs.semantic is not None
    assert outputs.semantic.logits.shape == (2, 5, 16, 24)
    assert network.rpn is network.region is network.fusion is None


@pytest.mark.parametrize("masks", [True, False])
def test_region_branch_alone(make_network: Maker, masks: bool) -> None:
    changes = {} if masks else {"model__region__mask_head": None}
    network = make_network(model__semantic=None, model__fusion=None, **changes)
    outputs = predict(network, noise(), [[64, 96], [64, 96]])
    assert outputs.semantic is None
    assert network.semantic is network.fusion is None
    assert outputs.instances is not None
    assert outputs.instances.valid.any()
    assert (outputs.instances.mask_logits is not None) == masks


# --- odd pictures ---


@pytest.mark.parametrize("sizes", [[[64, 96], [33, 50]], [[1, 1], [64, 96]], [[64, 1], [1, 96]]])
def test_results_stay_inside_pictures_of_mixed_sizes(network: PanopticSegmenter, sizes: list[list[int]]) -> None:
    found = predict(network, noise(), sizes).instances
    assert found is not None
    for row, (height, width) in enumerate(sizes):
        boxes = found.boxes[row][found.valid[row]]
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()


def test_what_stands_in_the_padding_does_not_matter(network: PanopticSegmenter) -> None:
    images, sizes = noise(), [[64, 96], [33, 50]]
    cleaned = images.clone()
    cleaned[1, :, 33:] = 0
    cleaned[1, :, :, 50:] = 255
    first, second = predict(network, images, sizes), predict(network, cleaned, sizes)
    assert first.instances is not None
    assert second.instances is not None
    assert torch.equal(first.instances.boxes, second.instances.boxes)
    assert first.semantic is not None
    assert second.semantic is not None
    assert torch.equal(first.semantic.logits, second.semantic.logits)


def test_a_picture_does_not_depend_on_its_neighbours(network: PanopticSegmenter) -> None:
    images, sizes = noise(), [[64, 96], [33, 50]]
    together = predict(network, images, sizes)
    for row in range(2):
        alone = predict(network, images[row : row + 1], sizes[row : row + 1])
        assert together.semantic is not None
        assert alone.semantic is not None
        torch.testing.assert_close(alone.semantic.logits[0], together.semantic.logits[row], rtol=1e-4, atol=1e-4)
        assert together.instances is not None
        assert alone.instances is not None
        torch.testing.assert_close(alone.instances.scores[0], together.instances.scores[row], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 4])
def test_pictures_with_other_channels(make_network: Maker, channels: int) -> None:
    picture = {"channels": channels, "mean": (100.0,) * channels, "std": (50.0,) * channels, "short_side": 0}
    network = make_network(picture=picture)
    outputs = predict(network, noise(channels=channels), [[64, 96], [33, 50]])
    assert outputs.semantic is not None
    assert outputs.semantic.logits.shape == (2, 4, 16, 24)


def test_a_picture_without_any_object_becomes_a_map(network: PanopticSegmenter, make_network: Maker) -> None:
    network = make_network()
    assert network.region is not None
    with torch.no_grad():
        network.region.get_parameter("box_head.outputs.classes.bias")[-1] = 100
    outputs = predict(network, noise(1), [[64, 96]])
    assert outputs.instances is not None
    assert not outputs.instances.valid.any()
    assert network.fusion is not None
    maps = network.fusion(outputs, 0, (64, 96), (40, 60))
    assert maps.ids.shape == (40, 60)
    assert (maps.labels < 3).all()


def test_both_modes_return_the_same_type(network: PanopticSegmenter) -> None:
    for mode in (True, False):
        outputs = predict(network.train(mode), noise(), [[64, 96], [33, 50]])
        assert isinstance(outputs, Outputs)
    network.eval()
