"""Which level a region is pooled from, and what comes out, with and without gradient."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from thingstuff.model.box_head import fully_connected_entry
from thingstuff.model.mask_head import convolution_entry
from thingstuff.model.pooling import AdaptivePool, AssignedLevelPool, assign_level, with_batch_index
from thingstuff.structures import LevelFusion, Pyramid

STRIDES = (4, 8, 16, 32)


def pyramid(requires_grad: bool, dtype: torch.dtype = torch.float32) -> Pyramid:
    """Features of two pictures of 512x512 pixels; stride 64 is never pooled from."""
    generator = torch.Generator().manual_seed(0)
    features = {
        stride: torch.randn(2, 2, 512 // stride, 512 // stride, generator=generator).to(dtype)
        for stride in (*STRIDES, 64)
    }
    return Pyramid({stride: feature.requires_grad_(requires_grad) for stride, feature in features.items()})


def squares(*sides: float) -> torch.Tensor:
    return torch.tensor([[10, 10, 10 + side, 10 + side] for side in sides], dtype=torch.float32).view(-1, 4)


@pytest.mark.parametrize(
    ("side", "stride"),
    [
        *((0, 4), (1, 4), (32, 4), (111, 4), (111.9, 4)),
        *((112, 8), (223, 8), (223.9, 8)),
        *((224, 16), (447, 16), (447.9, 16)),
        *((448, 32), (900, 32), (5000, 32)),
    ],
)
def test_level_of_a_square(side: float, stride: int) -> None:
    (position,) = assign_level(squares(side), STRIDES).tolist()
    assert STRIDES[position] == stride


def test_level_follows_the_area_not_the_shape() -> None:
    boxes = torch.tensor([[0.0, 0, 448, 112], [0, 0, 112, 448], [0, 0, 448, 111]])
    assert [STRIDES[position] for position in assign_level(boxes, STRIDES).tolist()] == [16, 16, 8]


def test_level_among_other_strides() -> None:
    boxes = squares(10, 112, 224, 448, 900)
    assert [(8, 16)[position] for position in assign_level(boxes, (8, 16)).tolist()] == [8, 8, 16, 16, 16]
    levels = assign_level(boxes, (4, 8, 16, 32, 64)).tolist()
    assert [(4, 8, 16, 32, 64)[position] for position in levels] == [4, 8, 16, 32, 64]


def test_rows_begin_with_the_number_of_their_picture() -> None:
    boxes = [squares(1, 2), squares(), squares(3)]
    expected = [[0, 10, 10, 11, 11], [0, 10, 10, 12, 12], [2, 10, 10, 13, 13]]
    assert with_batch_index(boxes).tolist() == expected


BOXES = [
    torch.tensor([[3.0, 5, 40, 60], [20, 30, 180, 190], [0, 0, 300, 260], [0, 0, 512, 512], [7, 7, 8, 8]]),
    torch.tensor([[100.0, 100, 600, 700], [511, 511, 512, 512], [0, 0, 0, 0]]),
]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equals_torchvision_on_the_assigned_level(sampling_ratio: int, aligned: bool, requires_grad: bool) -> None:
    features = pyramid(requires_grad)
    pool = AssignedLevelPool(7, nn.Identity(), sampling_ratio=sampling_ratio, aligned=aligned)
    pooled = pool(features, BOXES)
    assert pooled.shape == (8, 2, 7, 7)
    regions = with_batch_index(BOXES)
    for row, position in enumerate(assign_level(regions[:, 1:], STRIDES).tolist()):
        stride = STRIDES[position]
        alone = roi_align(
            features.features[stride], regions[row : row + 1], 7, 1 / stride, sampling_ratio, aligned=aligned
        )
        torch.testing.assert_close(pooled[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_features_of_other_levels_do_not_matter(sampling_ratio: int, requires_grad: bool) -> None:
    features = {
        stride: torch.full((1, 1, 512 // stride, 512 // stride), 1e6, requires_grad=requires_grad)
        for stride in (*STRIDES, 64)
    }
    features[8] = torch.full_like(features[8], 3.0).requires_grad_(requires_grad)
    pooled = AssignedLevelPool(3, nn.Identity(), sampling_ratio=sampling_ratio)(Pyramid(features), [squares(120, 200)])
    torch.testing.assert_close(pooled, torch.full((2, 1, 3, 3), 3.0))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_rows_that_only_fill_up_are_pooled_to_zero(requires_grad: bool) -> None:
    pooled = AssignedLevelPool(3, nn.Identity())(pyramid(requires_grad), [torch.zeros(4, 4), torch.zeros(0, 4)])
    assert torch.equal(pooled, torch.zeros(4, 2, 3, 3))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_no_region_at_all(requires_grad: bool) -> None:
    entry = nn.Sequential(nn.Flatten(), nn.Linear(18, 5))
    assert AssignedLevelPool(3, entry)(pyramid(requires_grad), [torch.zeros(0, 4)] * 2).shape == (0, 5)


def test_entry_follows_pooling() -> None:
    entry = nn.Conv2d(2, 4, 3)
    pool = AssignedLevelPool(7, entry)
    features = pyramid(False)
    assert torch.equal(pool(features, BOXES), entry(pool.pool(features, BOXES)))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_half_precision_features_are_pooled_in_full(requires_grad: bool) -> None:
    half, pool = pyramid(requires_grad, torch.bfloat16), AssignedLevelPool(7, nn.Identity())
    full = Pyramid({stride: feature.float() for stride, feature in half.features.items()})
    pooled = pool(half, BOXES)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, pool(full, BOXES))


# --- every region from every level ---


def one_level(stride: int, size: int = 7, sampling_ratio: int = 0, aligned: bool = True) -> AdaptivePool:
    return AdaptivePool(size, [nn.Identity()], [stride], sampling_ratio=sampling_ratio, aligned=aligned)


def columns(requires_grad: bool) -> Pyramid:
    """Features that say which column they are in, of a picture of 256x256 pixels."""
    features = {stride: torch.arange(256.0 / stride).expand(1, 1, 256 // stride, -1).clone() for stride in STRIDES}
    return Pyramid({stride: feature.requires_grad_(requires_grad) for stride, feature in features.items()})


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("stride", "first", "last"),
    [(4, 5.142857, 18.857143), (8, 2.571429, 9.428572), (16, 1.285714, 4.714286), (32, 0.642857, 2.357143)],
)
def test_worked_example_of_a_region_on_four_levels(stride: int, first: float, last: float, requires_grad: bool) -> None:
    region = [torch.tensor([[16.0, 8, 80, 72]])]
    expected = torch.linspace(first, last, 7).expand(1, 1, 7, 7)
    pooled = one_level(stride, sampling_ratio=2, aligned=False)(columns(requires_grad), region)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)
    shifted = one_level(stride, sampling_ratio=2, aligned=True)(columns(requires_grad), region)
    torch.testing.assert_close(shifted, expected - 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("aligned", "first", "last"), [(False, 2.071429, 2.928571), (True, 1.535714, 1.964286)])
def test_worked_example_of_a_region_smaller_than_a_pixel(
    aligned: bool, first: float, last: float, requires_grad: bool
) -> None:
    region = [torch.tensor([[64.0, 64, 80, 80]])]  # half a pixel of stride 32; without alignment it becomes a whole one
    pooled = one_level(32, sampling_ratio=2, aligned=aligned)(columns(requires_grad), region)
    torch.testing.assert_close(pooled, torch.linspace(first, last, 7).expand(1, 1, 7, 7), rtol=0, atol=1e-5)


class Says(nn.Module):
    """Says the same of every region."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.values.expand(len(pooled), -1)


@pytest.mark.parametrize(("fuse", "expected"), [("max", [0.5, 0.3, 1, 0]), ("sum", [1.2, 0.7, 2.1, 0])])
def test_worked_example_of_joining_levels(fuse: LevelFusion, expected: list[float]) -> None:
    levels = [[0.2, 0, 1, 0], [0.5, 0.1, 0, 0], [0.4, 0.3, 0.9, 0], [0.1, 0.3, 0.2, 0]]
    pool = AdaptivePool(7, [Says(values) for values in levels], fuse=fuse)
    torch.testing.assert_close(pool(pyramid(False), [squares(20), squares(5, 400)]), torch.tensor([expected] * 3))


def entries(make: Callable[[], nn.Module] = lambda: convolution_entry(2, 3)) -> list[nn.Module]:
    torch.manual_seed(0)
    return [make() for _ in STRIDES]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("inclusive_boxes", [False, True])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("fuse", ["max", "sum"])
def test_equals_torchvision_on_every_level(
    fuse: LevelFusion, sampling_ratio: int, aligned: bool, inclusive_boxes: bool, requires_grad: bool
) -> None:
    features, layers = pyramid(requires_grad), entries()
    pool = AdaptivePool(
        7,
        layers,
        fuse=fuse,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        inclusive_boxes=inclusive_boxes,
    )
    regions = with_batch_index(BOXES) - torch.tensor([0.0, 0, 0, 1, 1]) * inclusive_boxes
    alone = torch.stack(
        [
            layer(roi_align(features.features[stride], regions, 7, 1 / stride, sampling_ratio, aligned=aligned))
            for stride, layer in zip(STRIDES, layers, strict=True)
        ]
    )
    expected = alone.amax(dim=0) if fuse == "max" else alone.sum(dim=0)
    torch.testing.assert_close(pool(features, BOXES), expected, rtol=1e-4, atol=1e-5)


def test_gradients_equal_torchvisions() -> None:
    pool, mine, theirs = AdaptivePool(7, entries(), sampling_ratio=2), pyramid(True), pyramid(True)
    mine_loss = pool(mine, BOXES).square().sum()
    regions = with_batch_index(BOXES)
    alone = [
        layer(roi_align(theirs.features[stride], regions, 7, 1 / stride, 2, aligned=True))
        for stride, layer in zip(STRIDES, pool.entries, strict=True)
    ]
    their_loss = torch.stack(alone).max(dim=0).values.square().sum()
    parameters = list(pool.parameters())
    my_gradients = torch.autograd.grad(mine_loss, [*(mine.features[s] for s in STRIDES), *parameters])
    their_gradients = torch.autograd.grad(their_loss, [*(theirs.features[s] for s in STRIDES), *parameters])
    for my_gradient, their_gradient in zip(my_gradients, their_gradients, strict=True):
        assert their_gradient.abs().max() > 0
        torch.testing.assert_close(my_gradient, their_gradient, rtol=1e-4, atol=1e-4)


def test_rows_follow_the_regions() -> None:
    pool, features = AdaptivePool(7, entries()), pyramid(False)
    order = torch.tensor([3, 0, 4, 2, 1])
    pooled = pool(features, BOXES)
    torch.testing.assert_close(pool(features, [BOXES[0][order], BOXES[1]])[:5], pooled[:5][order])


def test_equal_levels_are_equal_to_any_of_them() -> None:
    features = Pyramid({stride: torch.full((1, 2, 512 // stride, 512 // stride), 3.0) for stride in STRIDES})
    layer, regions = convolution_entry(2, 3), [squares(20, 100, 300)]
    alone = AdaptivePool(7, [layer], [4])(features, regions)
    assert alone.abs().max() > 0
    torch.testing.assert_close(AdaptivePool(7, [layer] * 4)(features, regions), alone)
    torch.testing.assert_close(AdaptivePool(7, [layer] * 4, fuse="sum")(features, regions), 4 * alone)


def test_the_largest_of_all_levels_is_no_less_than_any() -> None:
    features, layers = pyramid(False), entries()
    joined = AdaptivePool(7, layers)(features, BOXES)
    reached = torch.zeros_like(joined, dtype=torch.bool)
    for stride, layer in zip(STRIDES, layers, strict=True):
        alone = AdaptivePool(7, [layer], [stride])(features, BOXES)
        assert (joined >= alone).all()
        reached |= joined == alone
    assert reached.all()


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("side", [16, 150, 300, 500])
def test_every_level_matters_to_every_region(side: float, stride: int) -> None:
    pool, features = AdaptivePool(7, entries(), fuse="sum"), pyramid(False)
    others = Pyramid({**features.features, stride: 2 * features.features[stride]})
    assert not torch.allclose(pool(features, [squares(side)] * 2), pool(others, [squares(side)] * 2))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("aligned", [True, False])
def test_no_region_on_any_level(aligned: bool, norm, requires_grad: bool) -> None:
    none = [torch.zeros(0, 4)] * 2
    convolutions = AdaptivePool(7, entries(lambda: convolution_entry(2, 8, norm)), aligned=aligned)
    assert convolutions(pyramid(requires_grad), none).shape == (0, 8, 7, 7)
    tables = AdaptivePool(7, entries(lambda: fully_connected_entry(2, 7, 8, norm)), aligned=aligned)
    features = pyramid(requires_grad)
    pooled = tables(features, none)
    assert pooled.shape == (0, 8)
    pooled.sum().backward()
    for parameter in (*tables.parameters(), *(features.features[stride] for stride in STRIDES if requires_grad)):
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_half_precision_levels_are_pooled_in_full(requires_grad: bool) -> None:
    half, pool = pyramid(requires_grad, torch.bfloat16), AdaptivePool(7, entries())
    full = Pyramid({stride: feature.float() for stride, feature in half.features.items()})
    pooled = pool(half, BOXES)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, pool(full, BOXES))
    with torch.autocast("cpu", torch.bfloat16):
        assert pool(half, BOXES).dtype == torch.bfloat16


def test_inference_holds_the_regions_of_one_level_at_a_time() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal most
        alive.append(weakref.ref(inputs[0]))
        most = max(most, sum(reference() is not None for reference in alive))

    layers = entries()
    for layer in layers:
        layer.register_forward_pre_hook(watch)
    with torch.inference_mode():
        AdaptivePool(7, layers)(pyramid(False), BOXES)
    assert (len(alive), most) == (4, 1)


class Flat(nn.Module):
    """A pool as exporters want it: tensors in, a tensor out."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        return self.pool(Pyramid(dict(zip(STRIDES, features, strict=True))), boxes)


@pytest.mark.parametrize("fuse", ["max", "sum"])
def test_one_graph_serves_any_number_of_regions(fuse: LevelFusion) -> None:
    flat = Flat(AdaptivePool(7, entries(), fuse=fuse)).eval()
    features = [pyramid(False).features[stride] for stride in STRIDES]
    many = torch.export.Dim("many", min=0, max=1000)
    with torch.no_grad():
        program = torch.export.export(
            flat, (features, BOXES), dynamic_shapes=([None] * 4, [{0: many}, None]), strict=False
        )
        for count in (0, 1, 2, 5, 40):
            boxes = [squares(*range(3, 3 + 5 * count, 5)), BOXES[1]]
            torch.testing.assert_close(program.module()(features, boxes), flat(features, boxes), rtol=1e-5, atol=1e-5)
