"""Boxes that include their last pixel (Detectron, PANet, UPSNet) are the same boxes, written differently."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import roi_align

from thingstuff.model import boxes as box_ops
from thingstuff.model.pooling import AssignedLevelPool, assign_level
from thingstuff.model.rpn import cell_anchors
from thingstuff.structures import Pyramid

pytestmark = pytest.mark.reference

# Detectron's anchors at strides 4 to 64, ratios 0.5, 1 and 2, with their last pixel.
ANCHORS = {
    4: ((-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)),
    8: ((-40, -20, 47, 27), (-28, -28, 35, 35), (-20, -44, 27, 51)),
    16: ((-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)),
    32: ((-164, -72, 195, 103), (-112, -112, 143, 143), (-76, -168, 107, 199)),
    64: ((-332, -152, 395, 215), (-224, -224, 287, 287), (-148, -328, 211, 391)),
}
PLUS_ONE = np.array([0, 0, 1, 1])


@pytest.mark.parametrize("stride", ANCHORS)
def test_anchors(stride):
    ours = cell_anchors((8.0 * stride,), (0.5, 1.0, 2.0), "legacy", stride)
    np.testing.assert_allclose(ours, ANCHORS[stride] + PLUS_ONE)


def test_rounded_anchors_are_torchvision_s():
    ours = cell_anchors((32.0,), (0.5, 1.0, 2.0), "rounded")
    assert ours == ((-23, -11, 23, 11), (-16, -16, 16, 16), (-11, -23, 11, 23))


corner = st.integers(0, 300)
side = st.integers(0, 300)
boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
deltas = st.tuples(*[st.floats(-2, 2, width=32)] * 4)


@given(boxes, deltas)
def test_decoding(box, delta):
    """Detectron's formula: a width is x2 - x1 + 1, and the last pixel is found by taking 1 away again."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1 + 1, y2 - y1 + 1
    center_x, center_y = x1 + 0.5 * width + delta[0] * width, y1 + 0.5 * height + delta[1] * height
    new_width, new_height = np.exp(delta[2]) * width, np.exp(delta[3]) * height
    expected = np.array(
        [
            center_x - 0.5 * new_width,
            center_y - 0.5 * new_height,
            center_x + 0.5 * new_width - 1,
            center_y + 0.5 * new_height - 1,
        ]
    )
    ours = box_ops.decode(torch.tensor(delta)[None], torch.tensor(box + PLUS_ONE).float()[None], (1.0, 1.0, 1.0, 1.0))
    np.testing.assert_allclose(ours[0].numpy() - PLUS_ONE, expected, rtol=1e-5, atol=1e-3)


@given(boxes, boxes)
def test_overlap(first, second):
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = np.prod(np.maximum(high - low + 1, 0))
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (first, second)]
    ours = box_ops.iou(*(torch.tensor(box + PLUS_ONE).float()[None] for box in (first, second)))
    assert ours.item() == pytest.approx(shared / (sum(areas) - shared), abs=1e-6)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("learned", [False, True])
def test_pooling(sampling_ratio, learned):
    """Levels go by the sides with the last pixel, RoIAlign by the corners without it."""
    generator = torch.Generator().manual_seed(2)
    features = {s: torch.randn(1, 3, 512 // s, 512 // s, generator=generator) for s in (4, 8, 16, 32)}
    for feature in features.values():
        feature.requires_grad_(learned)
    inclusive = torch.tensor([[0, 0, 111, 111], [5, 9, 115, 119], [20, 30, 20, 30], [0, 0, 511, 511], [3.5, 2, 60, 90]])
    pool = AssignedLevelPool(7, nn.Identity(), sampling_ratio=sampling_ratio, aligned=False, inclusive_boxes=True)
    ours = pool(Pyramid(features), [inclusive + torch.from_numpy(PLUS_ONE)]).detach()
    sides = (inclusive[:, 2:] - inclusive[:, :2] + 1).prod(dim=1).sqrt()
    levels = (4 + torch.log2(sides / 224 + 1e-6)).floor().clamp(2, 5).long() - 2
    assert torch.equal(assign_level(inclusive + torch.from_numpy(PLUS_ONE), (4, 8, 16, 32)), levels)
    assert levels.tolist() == [1, 0, 0, 3, 0]
    for box, level, mine in zip(inclusive, levels.tolist(), ours, strict=True):
        stride = 4 << level
        expected = roi_align(features[stride].detach(), [box[None]], 7, 1 / stride, sampling_ratio, False)[0]
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
