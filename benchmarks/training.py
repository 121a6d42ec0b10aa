"""One training step: Panoptic FPN with ResNet-50 and torchvision's Mask R-CNN, side by side in one run.

A step is forward, losses, backward and optimiser, as the loop of the package does it, with the recipe
``panoptic_fpn_r50_coco`` at the learning rate of its first step; stem and first stage stand still in both networks.
torchvision's has no semantic branch, so it does less. Weights are random, made like those of trained networks (see
``inference.py``). The pictures are procedural scenes; the truth is drawn: ellipses before stripes of stuff. Making
batches is not measured. How many masks the mask head saw stands in the table, because it takes much of the time.

    python benchmarks/training.py
    python benchmarks/training.py --batches 1 2 4 --rounds 3
"""

import argparse
import math
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from inference import FILES, torchvision_network, write_weights
from measuring import PRECISIONS, Build, Step, by_size, compare, make_parser, print_costs
from torch import Tensor, nn

from thingstuff.checkpoint import load_checkpoint
from thingstuff.convert.classes import coco_labels
from thingstuff.data.scenes import draw_scene
from thingstuff.data.transforms import collate
from thingstuff.labels import LabelSet
from thingstuff.model.panoptic import SIZE_DIVISOR
from thingstuff.structures import Precision, Sample, Size, Truth, TruthSegment
from thingstuff.training.objective import Objective
from thingstuff.training.optim import follow_schedule, make_optimizer

STRIPES = 6
"""Stuff segments of a picture."""


def main() -> None:
    """Measure and print a table for each batch."""
    options = _read_options()
    size: Size = tuple(options.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder, size, options.instances, ("torchvision",))
        for batch in options.batches:
            contenders: Mapping[str, Build] = {
                f"{name}, {precision}": partial(build, folder, size, options.instances, batch, precision)
                for precision in PRECISIONS
                for name, build in (("ours", build_ours), ("torchvision", build_torchvision))
            }
            costs = compare(contenders, options.rounds, options.threads)
            title = f"step: batch {batch}, {by_size(size)}, {options.instances} instances"
            print_costs(title, costs, "torchvision, float32")


def _read_options() -> argparse.Namespace:
    parser = make_parser(__doc__, size=(640, 960))
    parser.add_argument("--instances", type=int, default=10, help="objects in each picture")
    parser.add_argument("--batches", type=int, nargs="+", default=(1,))
    return parser.parse_args()


def build_ours(folder: Path, size: Size, instances: int, batch_size: int = 1, precision: Precision = "float32") -> Step:
    """The step of the package's loop."""
    checkpoint = load_checkpoint(folder / FILES["ours"])
    labels, recipe = checkpoint.labels, checkpoint.recipe
    network = checkpoint.network()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(network, recipe.optim, recipe.optim.learning_rate)
    follow_schedule(optimizer, 0, recipe.schedule)
    objective = Objective(network, recipe, labels.num_stuff).train()
    samples = [draw_sample(index, size, instances, labels) for index in range(batch_size)]
    batch = collate(samples, labels, SIZE_DIVISOR)
    counter = count_masks(network.get_submodule("region.mask_head"))

    def step() -> str:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            losses = objective(batch)
        losses.total().backward()
        optimizer.step()
        optimizer.zero_grad()
        return f"{counter[-1]} masks, loss {losses.total().item():.1f}"

    return step


def build_torchvision(
    folder: Path, size: Size, instances: int, batch_size: int = 1, precision: Precision = "float32"
) -> Step:
    """The step of torchvision's training script, with the same optimiser."""
    network = torchvision_network(size)
    network.load_state_dict(torch.load(folder / FILES["torchvision"]))
    network.train()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=2e-5, momentum=0.9, weight_decay=1e-4)
    labels = coco_labels()
    samples = [draw_sample(index, size, instances, labels) for index in range(batch_size)]
    images = [torch.from_numpy(sample.image.transpose(2, 0, 1).copy()).float() / 255 for sample in samples]
    targets = [_torchvision_targets(sample, labels) for sample in samples]
    counter = count_masks(network.roi_heads.get_submodule("mask_head"))

    def step() -> str:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            losses: dict[str, Tensor] = network(images, targets)
            total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return f"{counter[-1]} masks, loss {total.item():.1f}"

    return step


def count_masks(head: nn.Module) -> list[int]:
    """How many regions a mask head sees at each call, from now on."""
    counts: list[int] = []
    head.register_forward_hook(lambda _, __, masks: counts.append(len(masks)))
    return counts


def draw_sample(index: int, size: Size, instances: int, labels: LabelSet) -> Sample:
    """A picture with so many ellipses, each in a cell of a grid, before stripes of stuff."""
    rng = np.random.default_rng(index)
    height, width = size
    columns = math.ceil(math.sqrt(instances * width / height))
    rows = math.ceil(instances / columns)
    y, x = np.mgrid[:height, :width]
    ids = (1 + x * STRIPES // width).astype(np.int32)
    for number in range(instances):
        middle_y, middle_x = (number // columns + 0.5) * height / rows, (number % columns + 0.5) * width / columns
        radius_y, radius_x = rng.uniform(0.2, 0.48, 2) * (height / rows, width / columns)
        ids[((y - middle_y) / radius_y) ** 2 + ((x - middle_x) / radius_x) ** 2 < 1] = STRIPES + 1 + number
    classes = [
        *rng.choice(labels.num_stuff, STRIPES, replace=False).tolist(),
        *(labels.num_stuff + rng.integers(labels.num_things, size=instances)).tolist(),
    ]
    segments = tuple(TruthSegment(row, label) for row, label in enumerate(classes, start=1))
    image = draw_scene(0, index, size).image
    return Sample(image, Truth(ids, segments), index, f"{index}", size, seed=index)


def _torchvision_targets(sample: Sample, labels: LabelSet) -> dict[str, Tensor]:
    """Boxes, labels and full-size masks of one picture."""
    batch = collate([sample], labels, 1)
    assert batch.targets is not None
    assert sample.truth is not None
    things = [segment.id for segment in sample.truth.segments if segment.label >= labels.num_stuff]
    masks = torch.from_numpy(sample.truth.ids == np.array(things, dtype=np.int32)[:, None, None])
    return {"boxes": batch.targets[0].boxes, "labels": batch.targets[0].labels + 1, "masks": masks.to(torch.uint8)}


if __name__ == "__main__":
    main()
