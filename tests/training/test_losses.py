import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from thingstuff.structures import VOID_LABEL
from thingstuff.training.losses import (
    box_loss,
    class_loss,
    mask_loss,
    objectness_loss,
    panoptic_loss,
    roi_semantic_loss,
    semantic_loss,
)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_objectness_by_hand() -> None:
    # -log sigmoid(2), -log(1 - sigmoid(-1)), -log(1 - sigmoid(3))
    logits, positive = torch.tensor([2.0, -1.0, 3.0]), torch.tensor([True, False, False])
    expected = softplus(-2) + softplus(-1) + softplus(3)
    assert float(objectness_loss(logits, positive)) == pytest.approx(expected, rel=1e-6)


def test_box_loss_is_plain_l1_where_beta_is_0() -> None:
    predicted, wanted = torch.tensor([[0.0, 1.0, -2.0, 0.5]]), torch.tensor([[0.5, 1.0, 1.0, 0.25]])
    assert float(box_loss(predicted, wanted, 0.0)) == pytest.approx(0.5 + 0 + 3 + 0.25)


def test_box_loss_is_quadratic_below_beta() -> None:
    predicted, wanted = torch.tensor([[0.0, 1.0, -2.0, 0.5]]), torch.tensor([[0.5, 1.0, 1.0, 0.25]])
    # x^2 / (2 beta) below beta, x - beta / 2 above
    assert float(box_loss(predicted, wanted, 1.0)) == pytest.approx(0.125 + 0 + 2.5 + 0.03125)


def test_class_loss_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    expected = math.log(math.e + 2) - 1 + math.log(2 + math.exp(2)) - 2
    assert float(class_loss(logits, torch.tensor([0, 2]))) == pytest.approx(expected, rel=1e-6)


def test_mask_loss_by_hand() -> None:
    logits = torch.tensor([[[2.0, 0.0], [-1.0, 0.0]]])
    wanted = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    expected = softplus(-2) + softplus(-1) + 2 * math.log(2)
    assert float(mask_loss(logits, wanted)) == pytest.approx(expected, rel=1e-6)


def test_semantic_loss_leaves_void_out() -> None:
    logits = torch.zeros(1, 3, 1, 3)
    logits[0, 1, 0, 0] = 5.0
    labels = torch.tensor([[[1, 2, VOID_LABEL]]])
    expected = math.log(math.exp(5) + 2) - 5 + math.log(3)
    assert float(semantic_loss(logits, labels, VOID_LABEL)) == pytest.approx(expected, rel=1e-5)


def test_roi_semantic_loss_leaves_void_out() -> None:
    logits = torch.zeros(2, 3, 2, 2)
    logits[1, 2] = 1.0
    labels = torch.full((2, 2, 2), VOID_LABEL)
    labels[0, 0, 0], labels[1, 0, 0], labels[1, 1, 1] = 0, 2, 1
    total = math.log(math.e + 2)
    expected = math.log(3) + (total - 1) + total
    assert float(roi_semantic_loss(logits, labels, VOID_LABEL)) == pytest.approx(expected, rel=1e-6)


def test_panoptic_loss_has_more_channels_than_a_byte_counts() -> None:
    logits = torch.zeros(300, 1, 3)
    logits[255, 0, 0] = 4.0
    expected = math.log(math.exp(4) + 299) - 4 + math.log(300)
    assert float(panoptic_loss(logits, torch.tensor([[255, 299, -1]]), -1)) == pytest.approx(expected, rel=1e-6)


EMPTY = {
    "objectness": lambda logits: objectness_loss(logits[:, 0], torch.zeros(0, dtype=torch.bool)),
    "box": lambda logits: box_loss(logits, torch.zeros(0, 4), 0.0),
    "smooth box": lambda logits: box_loss(logits, torch.zeros(0, 4), 1.0),
    "class": lambda logits: class_loss(logits, torch.zeros(0, dtype=torch.int64)),
    "mask": lambda logits: mask_loss(logits[:, :, None].expand(0, 4, 4), torch.zeros(0, 4, 4)),
    "roi semantic": lambda logits: roi_semantic_loss(
        logits[:, :, None, None].expand(0, 4, 2, 2), torch.zeros(0, 2, 2, dtype=torch.int64), VOID_LABEL
    ),
    "panoptic without a channel": lambda logits: panoptic_loss(
        logits[:, :, None].expand(0, 4, 2), torch.full((4, 2), -1), -1
    ),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_compare_costs_nothing_but_keeps_its_gradient(name: str) -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = EMPTY[name](logits)
    assert float(loss.detach()) == 0
    loss.backward()
    assert logits.grad is not None


@pytest.mark.parametrize("term", [semantic_loss, roi_semantic_loss])
def test_all_void_costs_nothing(term: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = term(logits, torch.full((2, 4, 4), VOID_LABEL), VOID_LABEL)
    loss.backward()
    assert float(loss.detach()) == 0
    assert isinstance(logits.grad, Tensor)
    assert not logits.grad.any()


def test_bfloat16_is_summed_in_float32() -> None:
    # In bfloat16, 256 + 1 is 256: a sum of many small terms would stop growing.
    logits = torch.zeros(4000, dtype=torch.bfloat16)
    loss = objectness_loss(logits, torch.zeros(4000, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(4000 * math.log(2), rel=1e-5)
    deltas = torch.ones(1000, 4, dtype=torch.bfloat16)
    assert float(box_loss(deltas, torch.zeros(1000, 4), 0.0)) == 4000
