import math

import pytest
import torch
from torch import Tensor, nn

from thingstuff.data.scenes import SCENES
from thingstuff.model.build import build_network
from thingstuff.recipe import OptimizerConfig, Recipe, ScheduleConfig, derive
from thingstuff.training.optim import learning_rate_factor, make_average, make_optimizer, set_learning_rate

# --- learning rate ---

STEPS = ScheduleConfig(steps=1000, warmup_steps=100, warmup_factor=0.1, decay="steps", milestones=(600, 800), gamma=0.1)
COSINE = ScheduleConfig(steps=1000, warmup_steps=0, decay="cosine", milestones=(), final_factor=0.2)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.1), (50, 0.55), (99, 0.991), (100, 1), (599, 1), (600, 0.1), (799, 0.1), (800, 0.01), (999, 0.01)],
)
def test_warm_up_and_milestones(step: int, factor: float) -> None:
    assert learning_rate_factor(step, STEPS) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1), (250, 0.2 + 0.8 * 0.5 * (1 + math.sqrt(0.5))), (500, 0.6), (1000, 0.2)]
)
def test_cosine(step: int, factor: float) -> None:
    assert learning_rate_factor(step, COSINE) == pytest.approx(factor)


def test_the_cosine_does_not_rise_again_beyond_its_end() -> None:
    assert learning_rate_factor(1500, COSINE) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", [STEPS, COSINE])
@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_with_another_batch_the_schedule_is_stretched(schedule: ScheduleConfig, scale: float) -> None:
    for step in (0, 50, 100, 400, 600, 601, 800, 998):
        stretched = learning_rate_factor(round(step * scale), schedule, scale)
        assert stretched == pytest.approx(learning_rate_factor(step, schedule), abs=0.006)
    assert learning_rate_factor(1200, STEPS, 2.0) == pytest.approx(0.1)
    assert learning_rate_factor(1199, STEPS, 2.0) == pytest.approx(1)


def test_warm_up_and_cosine_multiply() -> None:
    schedule = COSINE.model_copy(update={"warmup_steps": 500, "warmup_factor": 0.0})
    assert learning_rate_factor(250, schedule) == pytest.approx(0.5 * learning_rate_factor(250, COSINE))


# --- optimiser ---


class Small(nn.Module):
    """6 + 3 weights, a norm of 2 + 2, biases of 2 + 1; a frozen layer and a weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.layer = nn.Linear(3, 2)
        self.norm = nn.GroupNorm(1, 2)
        self.last = nn.Linear(3, 1)
        self.again = nn.Linear(3, 1, bias=False)
        self.again.weight = self.last.weight


def groups_by_size(optimizer: torch.optim.Optimizer) -> dict[int, dict]:
    return {sum(parameter.numel() for parameter in group["params"]): group for group in optimizer.param_groups}


def test_weights_norms_and_biases_are_treated_apart() -> None:
    config = OptimizerConfig(
        weight_decay=0.1, norm_weight_decay=0.2, bias_weight_decay=0.3, bias_learning_rate_factor=2.0, momentum=0.8
    )
    optimizer = make_optimizer(Small(), config, 0.01)
    assert isinstance(optimizer, torch.optim.SGD)
    assert not optimizer.defaults["nesterov"]
    groups = groups_by_size(optimizer)
    assert groups.keys() == {9, 4, 3}
    assert [groups[size]["weight_decay"] for size in (9, 4, 3)] == [0.1, 0.2, 0.3]
    assert [groups[size]["lr"] for size in (9, 4, 3)] == [0.01, 0.01, 0.02]
    assert all(group["momentum"] == 0.8 for group in optimizer.param_groups)


def test_adamw_takes_momentum_as_its_first_beta() -> None:
    optimizer = make_optimizer(Small(), OptimizerConfig(kind="adamw", momentum=0.85), 0.01)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.85, 0.999) for group in optimizer.param_groups)


def test_a_group_without_weights_is_left_out() -> None:
    assert len(make_optimizer(nn.Linear(2, 2, bias=False), OptimizerConfig(), 0.1).param_groups) == 1


def test_every_trainable_weight_of_a_network_is_in_one_group(tiny_recipe: Recipe) -> None:
    recipe = derive(tiny_recipe, model__backbone__norm="batch", model__backbone__frozen_stages=2)
    network = build_network(recipe, SCENES)
    optimizer = make_optimizer(network, recipe.optim, 0.1)
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {parameter for parameter in network.parameters() if parameter.requires_grad}
    assert len(listed) == len(set(listed))
    assert set(listed) == wanted
    assert len(wanted) < len(list(network.parameters()))
    norms = {p for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for p in m.parameters()}
    assert set(optimizer.param_groups[1]["params"]) == norms & wanted
    assert all(parameter.ndim == 1 for parameter in optimizer.param_groups[2]["params"])


def test_detectron2_has_93_weights_with_decay_and_14_norms_without() -> None:
    """The tensors of Detectron2's Panoptic FPN R50, counted from its own optimiser (specification A8)."""
    from thingstuff.labels import Category, LabelSet
    from thingstuff.recipes import panoptic_fpn_r50_coco

    labels = LabelSet(tuple(Category(i + 1, f"{i}", i >= 53, (0, 0, 0)) for i in range(133)))
    recipe = panoptic_fpn_r50_coco()
    with torch.device("meta"):
        network = build_network(recipe, labels)
    optimizer = make_optimizer(network, recipe.optim, 0.02)
    counts = [len(group["params"]) for group in optimizer.param_groups]
    assert sum(counts) == 107
    assert counts[1] == 14
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0.0, 1e-4]


def test_set_learning_rate_keeps_the_groups_apart() -> None:
    optimizer = make_optimizer(Small(), OptimizerConfig(bias_learning_rate_factor=2.0), 0.01)
    for factor in (0.5, 0.1):
        set_learning_rate(optimizer, factor)
        groups = groups_by_size(optimizer)
        assert [groups[size]["lr"] for size in (9, 4, 3)] == pytest.approx(
            [0.01 * factor, 0.01 * factor, 0.02 * factor]
        )


# --- average ---


def test_the_average_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = make_average(layer, 0.5)
    seen = []
    for value in (1.0, 2.0, 4.0, 8.0):
        nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
        seen.append(float(weight_of(average.module)))
    # The first is a copy; then the decay is 2/11, 3/12 and 4/13.
    second = 1 * 2 / 11 + 2 * 9 / 11
    third = second * 3 / 12 + 4 * 9 / 12
    assert seen == pytest.approx([1.0, second, third, third * 4 / 13 + 8 * 9 / 13])


def test_the_decay_of_the_average_ends_at_the_given_one() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = make_average(layer, 0.3)
    for _ in range(30):
        nn.init.constant_(layer.weight, 1.0)
        average.update_parameters(layer)
    nn.init.constant_(layer.weight, 2.0)
    average.update_parameters(layer)
    assert float(weight_of(average.module)) == pytest.approx(0.3 * 1 + 0.7 * 2)


def test_statistics_of_norms_are_averaged_and_counters_copied() -> None:
    norm = nn.BatchNorm1d(1)
    average = make_average(norm, 0.9)
    for _ in range(2):
        norm(torch.tensor([[0.0], [10.0]]))
        average.update_parameters(norm)
    copy = average.module
    assert isinstance(copy, nn.BatchNorm1d)
    assert isinstance(copy.running_mean, Tensor)
    # Running means are 0.5 and 0.95.
    assert float(copy.running_mean) == pytest.approx(0.5 * 2 / 11 + 0.95 * 9 / 11)
    assert copy.num_batches_tracked is not None
    assert int(copy.num_batches_tracked) == 2


def test_the_average_does_not_change_what_it_averages() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    average = make_average(layer, 0.9)
    average.update_parameters(layer)
    nn.init.zeros_(weight_of(average.module))
    assert torch.equal(layer.weight, before)


def weight_of(module: nn.Module) -> Tensor:
    assert isinstance(module, nn.Linear)
    return module.weight.detach()
