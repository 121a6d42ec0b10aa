"""Optimiser, learning-rate schedule and averaged weights."""

import math
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from thingstuff.recipe import OptimizerConfig, ScheduleConfig

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(network: nn.Module, config: OptimizerConfig, learning_rate: float) -> torch.optim.Optimizer:
    """Build the optimiser over every weight that learns.

    Args:
        network: What learns.
        config: The kind and its settings.
        learning_rate: For the batch that is really used. Each group keeps its own base value as ``base_lr``.
    """
    groups = []
    for parameters, decay, factor in _parameter_groups(network, config):
        if parameters:
            base = learning_rate * factor
            groups.append({"params": parameters, "weight_decay": decay, "lr": base, "base_lr": base})
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(config.momentum, 0.999))


def _parameter_groups(network: nn.Module, config: OptimizerConfig) -> list[tuple[list[nn.Parameter], float, float]]:
    """Weights, norms and biases, each with weight decay and learning-rate factor; a shared weight counts once."""
    weights: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            # timm's norms with activation and its two-dimensional LayerNorm derive from these classes.
            if isinstance(module, _NORMS) and (name != "bias" or config.norm_biases_as == "norms"):
                norms.append(parameter)
            elif name == "bias":
                biases.append(parameter)
            else:
                weights.append(parameter)
    return [
        (weights, config.weight_decay, 1.0),
        (norms, config.norm_weight_decay, 1.0),
        (biases, config.bias_weight_decay, config.bias_learning_rate_factor),
    ]


def learning_rate_factor(step: int, schedule: ScheduleConfig, scale: float = 1.0) -> float:
    """What the base learning rate is multiplied with at a step, counted from 0.

    Args:
        step: Steps already taken.
        schedule: Of the recipe, in steps of the recipe's batch.
        scale: Steps really taken for one step of the recipe: the recipe's batch over the batch really used.

    Source: Goyal et al., Accurate, Large Minibatch SGD (linear warm-up); Detectron2's multi-step; Loshchilov and
    Hutter, SGDR (cosine).
    """
    rise = _rise(step, schedule, scale)
    if schedule.decay == "steps":
        return rise * schedule.gamma ** sum(step >= milestone * scale for milestone in schedule.milestones)
    progress = min(step / max(schedule.steps * scale, 1), 1.0)
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    return rise * (schedule.final_factor + (1 - schedule.final_factor) * fall)


def _rise(step: int, schedule: ScheduleConfig, scale: float) -> float:
    """The part of the factor that warm-up makes."""
    warmup = schedule.warmup_steps * scale
    if step >= warmup:
        return 1.0
    return schedule.warmup_factor + (1 - schedule.warmup_factor) * step / warmup


def momentum_factor(step: int, schedule: ScheduleConfig, scale: float = 1.0) -> float:
    """What a momentum of gradients is multiplied with before a step to act as a momentum of steps.

    Caffe adds up steps, each with the rate of its time: ``v = 0.9 v + rate * gradient``. PyTorch adds up gradients and
    multiplies their sum ``v / rate`` with the rate of today, so that the sum must change with ``old rate / new rate``.
    At a milestone Caffe divides ``v`` as it does the rate, and both cancel. A cosine has no milestones: its rates are
    followed like those of warm-up.

    Args:
        step: Steps already taken.
        schedule: Of the recipe, in steps of the recipe's batch.
        scale: Steps really taken for one step of the recipe.

    Source: Caffe's and Caffe2's solvers; UPSNet's published implementation.
    """
    if step == 0:
        return 1.0
    rate = _rise if schedule.decay == "steps" else learning_rate_factor
    before, now = rate(step - 1, schedule, scale), rate(step, schedule, scale)
    return before / now if now > 0 else 1.0


def follow_schedule(
    optimizer: torch.optim.Optimizer,
    step: int,
    schedule: ScheduleConfig,
    scale: float = 1.0,
    momentum_of: Literal["gradients", "steps"] = "gradients",
) -> None:
    """Prepare the optimiser for a step: its learning rates and, where they depend on it, the sums of past steps.

    Nothing is remembered from one call to the next, so that a resumed run does the same as one that was never stopped.

    Args:
        optimizer: From ``make_optimizer``, as the last step left it.
        step: Steps already taken.
        schedule: Of the recipe, in steps of the recipe's batch.
        scale: Steps really taken for one step of the recipe.
        momentum_of: What momentum carries on; ``steps`` for SGD alone.
    """
    set_learning_rate(optimizer, learning_rate_factor(step, schedule, scale))
    if momentum_of == "steps":
        scale_momentum(optimizer, momentum_factor(step, schedule, scale))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its base value times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


@torch.no_grad()
def scale_momentum(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply SGD's sums of past gradients, where there are any, with ``factor``."""
    if factor != 1:
        for state in optimizer.state.values():
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"].mul_(factor)


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network whose weights are an exponential moving average.

    The average begins quickly: at update t the decay is at most (1 + t) / (10 + t), so that it is not held back by
    the random weights it started from. Statistics of batch norms are averaged as well.
    """

    @torch.no_grad()
    def update(averages: Tensors, values: Tensors, count: torch.Tensor | int) -> None:
        t = int(count)
        keep = min(decay, (1 + t) / (10 + t))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - keep)
            else:
                average.copy_(value)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)
