"""From pooled region features to class logits and box deltas."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from thingstuff.model.layers import init_normal, init_xavier


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


def fully_connected_entry(channels: int, size: int, width: int) -> nn.Sequential:
    """The first fully connected layer of ``LightBoxHead``, which the pool before it owns."""
    entry = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, width), nn.ReLU(inplace=True))
    init_xavier(entry)
    return entry


class LightBoxHead(nn.Module):
    """Two fully connected layers, of which the first is the pool's entry.

    Args:
        width: Length of the hidden vectors.
        num_things: Thing classes.
        class_agnostic_boxes: Predict one box for all classes.

    Source: Lin et al., Feature Pyramid Networks, CVPR 2017; Detectron2's initialisation.
    """

    def __init__(self, width: int, num_things: int, class_agnostic_boxes: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True))
        init_xavier(self.hidden)
        self.outputs = BoxOutputs(width, num_things, class_agnostic_boxes)

    def forward(self, features: Float[Tensor, "R width"]) -> BoxPredictions:
        """Classify regions and refine their boxes."""
        return self.outputs(self.hidden(features))
