"""Peak memory of predicting and of a training step against picture size, instances and batch.

Panoptic FPN with ResNet-50 in eager float32 and torchvision's Mask R-CNN, each in a process of its own, in megabytes
above what stands after import and loading (Linux alone tells). What is varied begins at the values of ``--size``,
``--instances`` and a batch of 1. Instances are detections over the threshold of 100 in all when predicting, and
objects in the truth when training. A batch is predicted by ours one picture after the other, by torchvision at once.
Weights and pictures are those of ``inference.py``, steps those of ``training.py``.

    python benchmarks/memory.py
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path

import inference
from measuring import Build, Cost, by_size, compare, make_parser, print_row, read_size

import training
from thingstuff.structures import Size

Case = tuple[Size, int, int]
"""Size, instances, pictures."""


def main() -> None:
    """Measure and print a table."""
    options = _read_options()
    names = tuple(contenders(Path(), ((64, 64), 1, 1)))
    print_row("size", "instances", "batch", *(f"{name}, MB" for name in names))
    print("|" + "---|" * (3 + len(names)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for instances, same in groupby(cases(options), key=lambda case: case[1]):
            inference.write_weights(folder, tuple(options.size), instances, ("torchvision",))
            for case in same:
                costs = compare(contenders(folder, case), options.rounds, options.threads)
                cells = (f"{cost.memory:.0f}" if isinstance(cost, Cost) else cost for cost in costs.values())
                print_row(by_size(case[0]), str(instances), str(case[2]), *cells)


def _read_options() -> argparse.Namespace:
    parser = make_parser(__doc__, size=(800, 1216), rounds=2)
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--more-sizes", type=read_size, nargs="*", default=((480, 640), (640, 960), (1024, 2048)))
    parser.add_argument("--more-instances", type=int, nargs="*", default=(30, 70))
    parser.add_argument("--more-batches", type=int, nargs="*", default=(2, 4))
    return parser.parse_args()


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The case that all begin with, and those that differ from it in one number."""
    size: Size = tuple(options.size)
    yield size, options.instances, 1
    for other in options.more_sizes:
        yield other, options.instances, 1
    for batch in options.more_batches:
        yield size, options.instances, batch
    for instances in options.more_instances:
        yield size, instances, 1


def contenders(folder: Path, case: Case) -> Mapping[str, Build]:
    """Both tasks of both networks."""
    size, instances, batch = case
    return {
        "predict, ours": partial(inference.build_ours, folder, size, pictures=batch),
        "predict, torchvision": partial(inference.build_torchvision, folder, size, pictures=batch),
        "train, ours": partial(training.build_ours, folder, size, instances, batch),
        "train, torchvision": partial(training.build_torchvision, folder, size, instances, batch),
    }


if __name__ == "__main__":
    main()
