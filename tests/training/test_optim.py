import math

import pytest
import torch
from torch import Tensor, nn

from thingstuff.data.scenes import SCENES
from thingstuff.model.build import build_network
from thingstuff.recipe import OptimizerConfig, Recipe, ScheduleConfig, derive
from thingstuff.training.optim import (
    follow_schedule,
    learning_rate_factor,
    make_average,
    make_optimizer,
    momentum_factor,
    set_learning_rate,
)

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


# UPSNet's schedule on COCO and PANet's warm-up (specifications): rates at certain steps.
UPSNET = ScheduleConfig(warmup_steps=1500, warmup_factor=0.1)
PANET = ScheduleConfig(warmup_steps=500, warmup_factor=1 / 3)


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        (UPSNET, 0, 0.002),
        (UPSNET, 1, 0.002012),
        (UPSNET, 750, 0.011),
        (UPSNET, 1499, 0.019988),
        (UPSNET, 1500, 0.02),
        (UPSNET, 59999, 0.02),
        (UPSNET, 60000, 0.002),
        (UPSNET, 79999, 0.002),
        (UPSNET, 80000, 0.0002),
        (PANET, 0, 0.006667),
        (PANET, 250, 0.013333),
        (PANET, 500, 0.02),
    ],
)
def test_published_learning_rates(schedule: ScheduleConfig, step: int, rate: float) -> None:
    assert 0.02 * learning_rate_factor(step, schedule) == pytest.approx(rate, abs=5e-7)


# --- momentum ---


class One(nn.Module):
    """A weight and a bias, both 1, whose gradient is their own value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.bias = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self) -> Tensor:
        return 0.5 * (self.weight**2 + self.bias**2)


def take_step(one: One, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    optimizer.zero_grad()
    one().backward()
    optimizer.step()
    return float(one.weight.detach()), float(one.bias.detach())


def values_over(schedule: ScheduleConfig, config: OptimizerConfig, steps: int, scale: float = 1.0) -> list[tuple]:
    one = One()
    optimizer = make_optimizer(one, config, 0.02)
    values = []
    for step in range(steps):
        follow_schedule(optimizer, step, schedule, scale, config.momentum_of)
        values.append(take_step(one, optimizer))
    return values


def caffe(schedule: ScheduleConfig, steps: int, decay: float, factor: float = 1.0, scale: float = 1.0) -> list[float]:
    """Steps are added up; at every milestone their sum falls like the rate. A plain loop over numbers."""
    value, sum_of_steps, values = 1.0, 0.0, []
    for step in range(steps):
        if schedule.decay == "steps":
            passed = sum(step - 1 < milestone * scale <= step for milestone in schedule.milestones)
            sum_of_steps *= schedule.gamma**passed
        rate = 0.02 * factor * learning_rate_factor(step, schedule, scale)
        sum_of_steps = 0.9 * sum_of_steps + rate * (value + decay * value)
        value -= sum_of_steps
        values.append(value)
    return values


def test_momentum_of_steps_by_hand() -> None:
    """UPSNet's warm-up: rates 0.002, 0.002012, 0.002024 (specification, section 4)."""
    found = values_over(UPSNET, OptimizerConfig(momentum_of="steps"), 3)
    assert [weight for weight, _ in found] == pytest.approx([0.997999800, 0.994191444, 0.988751478], abs=5e-10)
    plain = values_over(UPSNET, OptimizerConfig(), 3)
    assert plain[0] == found[0]
    assert plain[1][0] < found[1][0]  # PyTorch multiplies the first gradient with the second rate as well


SCHEDULES = {
    "warm-up, then milestones": ScheduleConfig(
        steps=60, warmup_steps=10, warmup_factor=0.1, milestones=(30, 45), gamma=0.1
    ),
    "milestones within warm-up, another gamma": ScheduleConfig(
        steps=60, warmup_steps=40, warmup_factor=0.25, milestones=(20, 21, 50), gamma=0.5
    ),
    "two milestones at once": ScheduleConfig(steps=60, warmup_steps=0, milestones=(20, 20), gamma=0.3),
    "warm-up from nothing": ScheduleConfig(steps=60, warmup_steps=5, warmup_factor=0.0, milestones=(50,)),
    "rate 0 at the end": ScheduleConfig(steps=60, warmup_steps=0, milestones=(30,), gamma=0.0),
    "cosine": ScheduleConfig(steps=60, warmup_steps=10, warmup_factor=0.1, decay="cosine", milestones=()),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_momentum_of_steps_is_caffes(name: str, scale: float) -> None:
    schedule = SCHEDULES[name]
    steps = round(60 * scale)
    config = OptimizerConfig(
        momentum_of="steps", weight_decay=0.01, bias_weight_decay=0.0, bias_learning_rate_factor=2.0
    )
    found = values_over(schedule, config, steps, scale)
    assert [weight for weight, _ in found] == pytest.approx(caffe(schedule, steps, 0.01, scale=scale), rel=1e-9)
    assert [bias for _, bias in found] == pytest.approx(caffe(schedule, steps, 0.0, 2.0, scale), rel=1e-9)


def test_both_kinds_of_momentum_agree_where_the_rate_only_falls_at_milestones() -> None:
    schedule = SCHEDULES["two milestones at once"]
    assert values_over(schedule, OptimizerConfig(momentum_of="steps"), 40) == values_over(
        schedule, OptimizerConfig(), 40
    )


def test_momentum_factor_follows_warm_up_alone() -> None:
    factors = [momentum_factor(step, UPSNET) for step in (0, 1, 1499, 1500, 1501, 60000, 80000)]
    assert factors == pytest.approx([1, 0.1 / 0.1006, 0.9988 / 0.9994, 0.9994, 1, 1, 1])
    # Beyond the end of a cosine to 0 nothing moves any more.
    cosine = SCHEDULES["cosine"]
    assert momentum_factor(60, cosine) == 1


@pytest.mark.parametrize("stopped", [1, 4, 10, 11, 30, 31])
def test_momentum_of_steps_after_a_resumed_run(stopped: int) -> None:
    schedule, config = SCHEDULES["warm-up, then milestones"], OptimizerConfig(momentum_of="steps")
    whole = values_over(schedule, config, 40)
    one = One()
    optimizer = make_optimizer(one, config, 0.02)
    for step in range(40):
        if step == stopped:
            state, weights = optimizer.state_dict(), one.state_dict()
            one = One()
            one.load_state_dict(weights)
            optimizer = make_optimizer(one, config, 0.02)
            optimizer.load_state_dict(state)
        follow_schedule(optimizer, step, schedule, 1.0, config.momentum_of)
        assert take_step(one, optimizer) == whole[step]


def test_without_momentum_there_is_nothing_to_scale() -> None:
    schedule, config = SCHEDULES["warm-up, then milestones"], OptimizerConfig(momentum_of="steps", momentum=0.0)
    plain = OptimizerConfig(momentum=0.0)
    assert values_over(schedule, config, 40) == values_over(schedule, plain, 40)


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


class Deformable(nn.Module):
    """A layer with a weight and a bias of its own and a convolution inside: 32 + 4, and 144 + 18."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 8, 1, 1))
        self.bias = nn.Parameter(torch.zeros(4))
        self.offset = nn.Conv2d(8, 18, 1)


@pytest.mark.parametrize(("rule", "decay", "factor"), [("norms", 0.2, 1.0), ("biases", 0.3, 2.0)])
def test_biases_of_norms_follow_the_rule_asked_for(rule, decay: float, factor: float) -> None:
    norm = nn.GroupNorm(2, 4)
    config = OptimizerConfig(
        norm_weight_decay=0.2, bias_weight_decay=0.3, bias_learning_rate_factor=2.0, norm_biases_as=rule
    )
    optimizer = make_optimizer(norm, config, 0.01)
    found = {id(p): (group["weight_decay"], group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    assert found[id(norm.weight)] == (0.2, 0.01)
    assert found[id(norm.bias)] == (decay, 0.01 * factor)


def test_biases_are_known_by_their_name_wherever_they_are() -> None:
    config = OptimizerConfig(weight_decay=1e-4, bias_weight_decay=0.0, bias_learning_rate_factor=2.0)
    groups = groups_by_size(make_optimizer(Deformable(), config, 0.02))
    assert groups.keys() == {32 + 144, 4 + 18}
    assert [groups[size]["weight_decay"] for size in (176, 22)] == [1e-4, 0.0]
    assert [groups[size]["lr"] for size in (176, 22)] == [0.02, 0.04]


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
