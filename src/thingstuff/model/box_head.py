"""From pooled region features to class logits and box deltas."""

from typing import NamedTuple, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from thingstuff.model.layers import conv_norm, init_msra, init_normal, init_xavier, make_norm
from thingstuff.structures import NormKind


class BoxPredictions(NamedTuple):
    """What a box head says of R regions.

    Attributes:
        class_logits: One for each thing class, then background.
        deltas: Box relative to the region: one for each thing class, or one for all.
    """

    class_logits: Float[Tensor, "R classes"]
    deltas: Float[Tensor, "R boxes 4"]


class BoxOutputs(nn.Module):
    """The two output layers that every box head ends with.

    Args:
        in_features: Length of a region's feature vector.
        num_things: Thing classes.
        class_agnostic_boxes: Predict one box for all classes.
    """

    def __init__(self, in_features: int, num_things: int, class_agnostic_boxes: bool = False) -> None:
        super().__init__()
        self.classes = nn.Linear(in_features, num_things + 1)
        self.deltas = nn.Linear(in_features, 4 * (1 if class_agnostic_boxes else num_things))
        init_normal(self.classes, std=0.01)
        init_normal(self.deltas, std=0.001)

    def forward(self, features: Float[Tensor, "R features"]) -> BoxPredictions:
        """Compute class logits and deltas."""
        return BoxPredictions(self.classes(features), self.deltas(features).unflatten(1, (-1, 4)))


def fully_connected_entry(channels: int, size: int, width: int, norm: NormKind = "none") -> nn.Sequential:
    """The first fully connected layer of ``LightBoxHead``, which the pool before it owns."""
    entry = nn.Sequential(nn.Flatten(), *_linear_norm(channels * size * size, width, norm))
    init_xavier(entry)
    return entry


class LightBoxHead(nn.Module):
    """Two fully connected layers, of which the first is the pool's entry.

    Args:
        width: Length of the hidden vectors.
        num_things: Thing classes.
        class_agnostic_boxes: Predict one box for all classes.
        norm: Norm after each layer; the paper has none.

    Source: Lin et al., Feature Pyramid Networks, CVPR 2017; Detectron2's initialisation.
    """

    def __init__(
        self, width: int, num_things: int, class_agnostic_boxes: bool = False, norm: NormKind = "none"
    ) -> None:
        super().__init__()
        self.hidden = nn.Sequential(*_linear_norm(width, width, norm))
        init_xavier(self.hidden)
        self.outputs = BoxOutputs(width, num_things, class_agnostic_boxes)

    def forward(self, features: Float[Tensor, "R width"]) -> BoxPredictions:
        """Classify regions and refine their boxes."""
        return self.outputs(self.hidden(features))


class HeavyBoxHead(nn.Module):
    """Convolutions, of which the first is the pool's entry, then one fully connected layer.

    Args:
        channels: Channels of the convolutions.
        size: Height and width of the features.
        width: Length of the hidden vector.
        num_things: Thing classes.
        num_convs: 3x3 convolutions, counting the entry.
        norm: Norm after each convolution.
        class_agnostic_boxes: Predict one box for all classes.

    Source: Liu et al., Path Aggregation Network for Instance Segmentation, CVPR 2018, section 4.2; the official code
    for the fully connected layer and the initialisation.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int,
        num_things: int,
        num_convs: int = 4,
        norm: NormKind = "none",
        class_agnostic_boxes: bool = False,
    ) -> None:
        super().__init__()
        convs = (conv_norm(channels, channels, 3, norm, relu=True) for _ in range(num_convs - 1))
        self.convs = nn.Sequential(*convs)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, width), nn.ReLU(inplace=True))
        init_msra(self.convs)
        init_xavier(self.hidden)
        self.outputs = BoxOutputs(width, num_things, class_agnostic_boxes)

    def forward(self, features: Float[Tensor, "R C size size"]) -> BoxPredictions:
        """Classify regions and refine their boxes."""
        return self.outputs(self.hidden(self.convs(features)))


def _linear_norm(in_features: int, out_features: int, norm: NormKind) -> list[nn.Module]:
    """A fully connected layer, its norm and a ReLU; it has a bias even with a norm, as in PANet's official weights."""
    layers: list[nn.Module] = [nn.Linear(in_features, out_features)]
    match norm:
        case "none":
            pass
        case "batch":
            layers.append(nn.BatchNorm1d(out_features))  # for a table, not for maps
        case "sync_batch" | "group":
            layers.append(make_norm(norm, out_features))
        case _:
            assert_never(norm)
    return [*layers, nn.ReLU(inplace=True)]
