"""For prediction, constant batch norms become part of the convolutions before them: a pass over the features less."""

from collections import Counter
from copy import deepcopy
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from thingstuff.model.deformable import DeformableConv2d

_TOLERANCE = 1e-3
"""Of the largest feature. Rounding stays far below it."""


@torch.no_grad()
def fold_norms(body: nn.Module, example: Float[Tensor, "B C H W"]) -> nn.Module:
    """Fold each batch norm into the convolution whose result it is given, which is seen where the network runs.

    Args:
        body: In evaluation mode; returns a list of tensors. It is left alone.
        example: Anything that it can be given.

    Returns:
        A network of fewer layers; ``body`` itself if its results would change by more than rounding.
    """
    expected = body(example)
    folded = deepcopy(body)
    for convolution, norm in _pairs(folded, example):
        before, after = folded.get_submodule(convolution), cast(nn.BatchNorm2d, folded.get_submodule(norm))
        # Deformable convolutions have weight and bias as plain ones do.
        before.weight, before.bias = fuse_conv_bn_weights(
            cast(Tensor, before.weight),
            cast(Tensor | None, before.bias),
            cast(Tensor, after.running_mean),
            cast(Tensor, after.running_var),
            after.eps,
            after.weight,
            after.bias,
        )
        rest = after.act if isinstance(after, BatchNormAct2d | FrozenBatchNormAct2d) else None
        folded.set_submodule(norm, cast(nn.Module, rest) if rest is not None else nn.Identity())
    same = (
        torch.allclose(actual, wanted, rtol=0, atol=_TOLERANCE * float(wanted.abs().max()))
        for wanted, actual in zip(expected, folded(example), strict=True)
    )
    return folded if all(same) else body


def _pairs(body: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of the convolutions and norms of which each runs once, the norm on the convolution's result."""
    results: list[tuple[str, Tensor]] = []
    inputs: list[tuple[str, Tensor]] = []
    handles = []
    for name, module in body.named_modules():
        if isinstance(module, nn.Conv2d | DeformableConv2d):
            handles.append(module.register_forward_hook(partial(_note_result, results, name)))
        elif isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d | FrozenBatchNormAct2d):
            handles.append(module.register_forward_pre_hook(partial(_note_input, inputs, name)))
    body(example)
    for handle in handles:
        handle.remove()
    runs = Counter(name for name, _ in results + inputs)
    pairs = [(convolution, norm) for convolution, result in results for norm, given in inputs if given is result]
    return [pair for pair in pairs if all(runs[name] == 1 for name in pair)]


def _note_result(notes: list[tuple[str, Tensor]], name: str, _module: nn.Module, _inputs: object, out: Tensor) -> None:
    notes.append((name, out))


def _note_input(notes: list[tuple[str, Tensor]], name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    notes.append((name, inputs[0]))
