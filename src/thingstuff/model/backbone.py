"""Any timm network as a pyramid of strides 4 to 32."""

import difflib
from typing import assert_never, cast

import timm
import torch
from jaxtyping import Float
from timm.layers.format import Format
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm, freeze_batch_norm_2d
from timm.models._features import FeatureListNet
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from thingstuff.errors import InputError
from thingstuff.model.deformable import DeformableConv2d
from thingstuff.model.layers import make_norm
from thingstuff.structures import BackboneNorm, Pyramid

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """A timm network that returns its features at strides 4, 8, 16 and 32.

    Args:
        name: Any timm name whose ``features_only`` form has these strides, for example ``resnet50`` or
            ``convnext_tiny``.
        in_channels: Channels of the picture.
        pretrained: Fetch timm's ImageNet weights from the hub.
        norm: What becomes of the network's batch norms: ``frozen_batch`` keeps them as constants, ``batch`` and
            ``sync_batch`` learn them, ``group`` replaces them. Networks without batch norm keep what they have.
        frozen_stages: How much does not learn: 0 nothing, 1 the stem, 2 the stem and the stride-4 stage, and so on.
        stride_in_first_conv: Put the stride of ResNet's bottlenecks on the first 1x1 convolution, where the original
            (Caffe) ResNets and Detectron2's MSRA weights have it, instead of on the 3x3.
        deformable_stages: So many stages, counted from the last, have deformable 3x3 convolutions in their bottlenecks.
            They keep the weights of those they replace and begin by computing the same.

    Raises:
        InputError: timm does not know the name, or the network has other strides, takes pictures of one size only, or
            cannot be changed as asked.
    """

    channels: tuple[int, ...]
    """Channels at strides 4, 8, 16 and 32."""

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        norm: BackboneNorm = "batch",
        frozen_stages: int = 0,
        stride_in_first_conv: bool = False,
        deformable_stages: int = 0,
    ) -> None:
        super().__init__()
        self.body = _create(name, in_channels, pretrained)
        info = {reduction: index for index, reduction in enumerate(self.body.feature_info.reduction())}  # pyright: ignore
        self.channels = tuple(self.body.feature_info.channels()[info[stride]] for stride in STRIDES)  # pyright: ignore
        self._indices = tuple(info[stride] for stride in STRIDES)
        self._channels_last = getattr(self.body, "output_fmt", None) is Format.NHWC
        if stride_in_first_conv:
            _move_stride_to_first_conv(self.body, name)
        if deformable_stages:
            _make_deformable(self.body, deformable_stages, name)
        self.body = _convert_norms(self.body, norm)
        self._frozen = _stages(self.body, frozen_stages, name)
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Pyramid:
        """Compute the features of normalised pictures.

        Args:
            images: Normalised and padded to a multiple of 32.
        """
        features = self.body(images)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return Pyramid({stride: features[index] for stride, index in zip(STRIDES, self._indices, strict=True)})

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode; frozen stages stay in evaluation mode, so that their norms keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def _create(name: str, in_channels: int, pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise InputError(f"backbone: timm has no network named {name!r}{hint}")
    try:
        with torch.device("meta"):
            plan = timm.create_model(name, features_only=True, pretrained=False).eval()
        reductions: list[int] = plan.feature_info.reduction()  # pyright: ignore
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"backbone: timm's {name!r} gives no feature pyramid ({error}); choose a hierarchical network"
        ) from error
    if missing := set(STRIDES) - set(reductions):
        raise InputError(
            f"backbone: {name!r} has features at strides {reductions}, but {sorted(missing)} is missing; "
            "choose a network with strides 4, 8, 16 and 32"
        )
    _check_any_size(plan, name)
    indices = tuple(plan.feature_info.out_indices[reductions.index(stride)] for stride in STRIDES)  # pyright: ignore
    try:
        return timm.create_model(
            name, features_only=True, out_indices=indices, pretrained=pretrained, in_chans=in_channels
        )
    except (OSError, RuntimeError, ValueError) as error:  # what the hub and timm raise where there is nothing to fetch
        if not pretrained:
            raise
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"backbone: trained weights of {name!r} cannot be fetched ({reason}); connect to the network once, or "
            "begin with a checkpoint (--init) and --no-model.backbone.pretrained"
        ) from error


def _check_any_size(plan: nn.Module, name: str) -> None:
    """Refuse a network that takes pictures of one size only; ``plan`` is without memory, so this costs little."""
    try:
        with torch.device("meta"), torch.no_grad():
            plan(torch.empty(1, 3, 64, 96))
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"backbone: {name!r} does not take pictures of any size ({reason}); choose one that does, as resnet50"
        ) from error


def _convert_norms(body: nn.Module, norm: BackboneNorm) -> nn.Module:
    match norm:
        case "batch":
            return body
        case "frozen_batch":
            return _keep_type(freeze_batch_norm_2d(body))
        case "sync_batch":
            return convert_sync_batchnorm(body)
        case "group":
            return _batch_to_group_norm(body)
        case _:
            assert_never(norm)


class _FrozenNorm(FrozenBatchNorm2d):
    """A constant batch norm in one pass, in the type of its features: bfloat16 stays bfloat16, as in Detectron2."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])


def _keep_type(module: nn.Module) -> nn.Module:
    """Replace frozen norms by those that do not turn every feature into float32."""
    if isinstance(module, FrozenBatchNorm2d):
        frozen = _FrozenNorm(len(cast(Tensor, module.weight)), module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        module.add_module(name, _keep_type(child))
    return module


def _batch_to_group_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        group_norm = make_norm("group", module.num_features)
        # timm's BatchNormAct2d carries the activation that follows; it has to be kept.
        return (
            nn.Sequential(group_norm, cast(nn.Module, module.act)) if isinstance(module, BatchNormAct2d) else group_norm
        )
    for name, child in module.named_children():
        setattr(module, name, _batch_to_group_norm(child))
    return module


def _move_stride_to_first_conv(body: nn.Module, name: str) -> None:
    blocks = [module for module in body.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise InputError(
            f"backbone: stride_in_first_conv is for ResNets with bottlenecks (resnet50 and up), not {name!r}"
        )
    for block in blocks:
        if block.conv2.stride != (1, 1):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _make_deformable(body: nn.Module, count: int, name: str) -> None:
    """Replace the 3x3 convolutions of the bottlenecks of the last ``count`` stages."""
    stages = [[block for block in stage.modules() if isinstance(block, Bottleneck)] for stage in body.children()]
    stages = [blocks for blocks in stages if blocks]
    if not stages:
        raise InputError(f"backbone: deformable_stages is for ResNets with bottlenecks (resnet50 and up), not {name!r}")
    if count > len(stages):
        raise InputError(f"backbone: deformable_stages is {count}, but {name!r} has {len(stages)} stages; give fewer")
    for block in (block for blocks in stages[-count:] for block in blocks):
        conv = block.conv2
        if conv.groups > 1:
            raise InputError(
                f"backbone: deformable_stages needs 3x3 convolutions without groups, but those of {name!r} have "
                f"{conv.groups}; choose a plain ResNet, as resnet101"
            )
        (stride, _), (dilation, _) = conv.stride, conv.dilation
        deformable = DeformableConv2d(
            conv.in_channels, conv.out_channels, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        deformable.weight = cast(nn.Parameter, conv.weight)
        block.add_module("conv2", deformable)


def _stages(body: nn.Module, count: int, name: str) -> tuple[nn.Module, ...]:
    """The stem and the first ``count - 1`` stages."""
    if count == 0:
        return ()
    if not isinstance(body, FeatureListNet):
        raise InputError(f"backbone: frozen_stages needs a network whose stages timm lists one by one, not {name!r}")
    stages, done = [], 1
    for key, module in body.items():
        if key in body.return_layers:
            done += 1
        if done > count:
            break
        stages.append(module)
    return tuple(stages)
