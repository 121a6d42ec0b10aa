"""The heuristic merge in two forms, inside of boxes and as a graph of fixed sizes: the same map and the same table."""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from production import loops_of_python
from thingstuff.model import boxes as box_ops
from thingstuff.model.fusion import merge_by_score, semantic_labels
from thingstuff.model.interpolation import nearest
from thingstuff.model.merge_graph import (
    falling_order,
    mask_factors,
    merge_in_graph,
    nearest_in_graph,
    paste_in_graph,
    rescale_in_graph,
    semantic_labels_in_graph,
)
from thingstuff.model.pasting import find_paste
from thingstuff.structures import Instances, MaskPaste, Outputs, PanopticMaps, Semantic, Size

KINDS: tuple[MaskPaste, ...] = ("pixel_centers", "whole_pixels", "inclusive_pixels")


@pytest.fixture(scope="module", autouse=True)
def loops() -> Iterator[None]:
    with loops_of_python():
        yield


def random_outputs(seed: int, count: int, size: Size, num_stuff: int, *, masks: bool = True) -> Outputs:
    """Instances whose masks are rounded blobs, and smooth semantic logits, with one more channel for things."""
    random = torch.Generator().manual_seed(seed)
    height, width = size
    corners = torch.rand((1, count, 2, 2), generator=random) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2) + 1], dim=2)  # at least a pixel wide and high
    logits = torch.randn((1, max(count, 1), 4, 4), generator=random) + 1
    logits = (interpolate(logits, size=(28, 28), mode="bilinear") * 4)[:, :count]
    scores = torch.rand((1, count), generator=random).round(decimals=1)  # with equal ones
    labels = torch.randint(0, 3, (1, count), generator=random)
    valid = torch.rand((1, count), generator=random) < 0.9
    padded = [-(-side // 32) * 32 for side in size]
    planes = torch.randn((1, num_stuff + 1, padded[0] // 4, padded[1] // 4), generator=random)
    instances = Instances(boxes, scores, labels, logits if masks else None, valid)
    return Outputs(instances, Semantic(planes) if num_stuff else None)


def both(outputs: Outputs, size: Size, output_size: Size, **rules: object) -> tuple[PanopticMaps, PanopticMaps]:
    """The eager form and the graph form, both only with their valid rows."""
    settings = {"num_stuff": 2, "score_threshold": 0.3, "overlap_threshold": 0.5, "stuff_area": 10}
    settings |= {"mask_paste": "pixel_centers"} | rules
    eager = merge_by_score(outputs, 0, size, output_size, **settings)  # pyright: ignore[reportArgumentType]
    graph = merge_in_graph(outputs, 0, size, output_size, **settings)  # pyright: ignore[reportArgumentType]
    count = int(graph.valid.sum())
    assert graph.valid[:count].all()
    columns = (column[:count] for column in (graph.labels, graph.scores, graph.areas, graph.valid))
    return eager, PanopticMaps(graph.ids, *columns)


def assert_same(eager: PanopticMaps, graph: PanopticMaps) -> None:
    for name in ("ids", "labels", "scores", "areas", "valid"):
        one, other = getattr(eager, name), getattr(graph, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name


def is_a_tie(outputs: Outputs, size: Size, output_size: Size, kind: MaskPaste) -> bool:
    """Whether a pixel is so nearly half of a mask, or of two classes, that each form decides by how it rounds."""
    instances, semantic = outputs.instances, outputs.semantic
    assert instances is not None
    assert instances.mask_logits is not None
    assert semantic is not None
    boxes = rescale_in_graph(instances.boxes[0], size, output_size)
    down, masks, across = mask_factors(instances.mask_logits[0].sigmoid(), boxes, output_size, kind)
    full = interpolate(semantic.logits, scale_factor=4, mode="bilinear")[:, :, : size[0], : size[1]]
    best, second, *_ = interpolate(full, size=output_size, mode="bilinear")[0].sort(dim=0, descending=True).values
    return bool(((down @ masks @ across.mT - 0.5).abs() < 1e-6).any() or (best - second < 1e-5).any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 9, 40])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), output=st.sampled_from([(50, 70), (33, 91), (1, 1), (120, 64)]))
def test_both_forms_give_the_same_map(kind: MaskPaste, count: int, seed: int, output: Size) -> None:
    outputs = random_outputs(seed, count, (50, 70), 2)
    assume(not is_a_tie(outputs, (50, 70), output, kind))
    assert_same(*both(outputs, (50, 70), output, mask_paste=kind))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_every_overlap_threshold(threshold: float, seed: int) -> None:
    outputs = random_outputs(seed, 30, (40, 40), 2)
    eager, graph = both(outputs, (40, 40), (40, 40), overlap_threshold=threshold, score_threshold=0.0)
    assert_same(eager, graph)
    assert len(eager.labels) > 2


def test_an_instance_hidden_by_exactly_the_threshold_stays() -> None:
    # Masks that fill their boxes: 10 x 10 pixels each, the second one under the first by 3 of its 10 columns.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [7, 0, 17, 10]]])
    instances = Instances(
        boxes, torch.tensor([[0.9, 0.8]]), torch.tensor([[0, 1]]), torch.full((1, 2, 28, 28), 9.0), torch.ones(1, 2) > 0
    )
    outputs = Outputs(instances, None)
    for threshold, areas in ((0.3, [100, 70]), (math.nextafter(0.3, 0), [100])):
        eager, graph = both(outputs, (20, 20), (20, 20), overlap_threshold=threshold)
        assert_same(eager, graph)
        assert graph.areas.tolist() == areas


def test_missing_branches() -> None:
    size = (50, 70)
    full = random_outputs(3, 9, size, 2)
    for outputs in (
        Outputs(full.instances, None),
        Outputs(None, full.semantic),
        random_outputs(3, 9, size, 2, masks=False),
        Outputs(random_outputs(4, 3, size, 2).instances, full.semantic, full.instances),
    ):
        assert_same(*both(outputs, size, (60, 60)))


def test_small_stuff_stays_out() -> None:
    outputs = random_outputs(1, 5, (64, 64), 2)
    for area in (0, 1, 900, 5000):
        assert_same(*both(outputs, (64, 64), (64, 64), stuff_area=area))


def test_the_table_keeps_a_row_for_each_instance_and_stuff_class() -> None:
    rules = {"num_stuff": 2, "score_threshold": 0.3, "overlap_threshold": 0.5, "stuff_area": 10}
    maps = merge_in_graph(random_outputs(0, 9, (50, 70), 2), 0, (50, 70), (50, 70), mask_paste="pixel_centers", **rules)
    assert len(maps.valid) == 11
    assert maps.areas[~maps.valid].tolist() == [0] * int((~maps.valid).sum())
    assert torch.bincount(maps.ids.flatten(), minlength=12)[1:].tolist() == maps.areas.tolist()


# --- steps ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "box", [[3.3, 4.4, 30.2, 12.1], [-5.0, -5.0, 70.0, 60.0], [10.0, 10.0, 11.4, 11.3], [0.0, 0.0, 64.0, 48.0]]
)
def test_paste_on_a_whole_plane(kind: MaskPaste, box: list[float]) -> None:
    probabilities = torch.rand((1, 28, 28), generator=torch.Generator().manual_seed(2))
    size = (48, 64)
    window, (top, left) = find_paste(kind)(probabilities[0], torch.tensor(box), size)
    expected = torch.zeros(size, dtype=torch.bool)
    expected[top : top + window.shape[0], left : left + window.shape[1]] = window
    factors = mask_factors(probabilities, torch.tensor([box]), size, kind)
    assert torch.equal(paste_in_graph(factors)[0], expected)


@pytest.mark.parametrize("output", [(50, 70), (25, 35), (101, 33), (1, 1)])
@pytest.mark.parametrize("classes", [1, 8, 19])
def test_label_map(output: Size, classes: int) -> None:
    logits = torch.randn((classes, 16, 24), generator=torch.Generator().manual_seed(classes))
    expected = semantic_labels(logits, (50, 70), output)
    assert torch.equal(semantic_labels_in_graph(logits, (50, 70), output), expected)


@pytest.mark.parametrize("output", [(5, 7), (3, 9), (20, 1)])
def test_nearest(output: Size) -> None:
    plane = torch.arange(64 * 96).view(64, 96)
    assert torch.equal(nearest_in_graph(plane, (5, 7), output), nearest(plane[:5, :7], output))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, -1.0]), max_size=9))
def test_falling_order(values: list[float]) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    assert falling_order(scores).tolist() == torch.argsort(scores, descending=True, stable=True).tolist()


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 4000), st.integers(1, 4000))
def test_rescale(height: int, width: int, new_height: int, new_width: int) -> None:
    boxes = torch.tensor(np.array([[0.5, 0.25, 17.3, 900.1], [-3, 5, 2500, 2100]], dtype=np.float32))
    sizes = (height, width), (new_height, new_width)
    assert torch.equal(rescale_in_graph(boxes, *sizes), box_ops.rescale(boxes, *sizes))


def test_compiled_merge_takes_the_graph_form(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = random_outputs(5, 9, (50, 70), 2)
    merge = partial(merge_by_score, num_stuff=2, score_threshold=0.3, stuff_area=10)
    eager = merge(outputs, 0, (50, 70), (40, 60))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    graph = merge(outputs, 0, (50, 70), (40, 60))
    assert len(graph.valid) == 11
    ids: Tensor = graph.ids
    assert torch.equal(ids, eager.ids)
