"""From a photograph to its panoptic map by a network that comes with the package, in every runtime, side by side.

Each call takes the next photograph, at the size that the network's policy gives it, so that the medians are over
photographs and turns. Conversions are made first, and kept in the cache folder, as for everyone; how long loading takes
once they are there is printed as well.

    python benchmarks/bundled.py tiny-facades ROOT/images
    python benchmarks/bundled.py tiny-nuclei ROOT/images --threads 1 --rounds 40
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from inference import RUNTIMES
from measuring import PRECISIONS, Step, apart, compare, number, print_costs, print_row
from torch import get_num_threads, set_num_threads

from thingstuff.data.images import read_image
from thingstuff.errors import InputError
from thingstuff.predict import Model, load
from thingstuff.predictions import find_pictures


def main() -> None:
    """Measure and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="such as tiny-facades, or a checkpoint")
    parser.add_argument("pictures", nargs="+", help="files, folders, globs")
    parser.add_argument("--count", type=int, default=20, help="how many of the pictures, evenly chosen")
    parser.add_argument("--runtimes", nargs="+", choices=tuple(RUNTIMES), default=tuple(RUNTIMES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=get_num_threads())
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"--count {options.count}: at least one picture is needed")
    try:
        files = find_pictures(options.pictures)
    except InputError as error:
        parser.error(str(error))
    count = min(options.count, len(files))
    chosen = [files[place * len(files) // count] for place in range(count)]
    ways = {
        f"{runtime}, {precision}": partial(load, options.network, runtime=runtime, precision=precision)
        for runtime in options.runtimes
        for precision in RUNTIMES[runtime]
        if precision in PRECISIONS
    }
    for way in ways.values():
        apart(partial(convert, way))
    costs = compare({name: partial(build, way, chosen) for name, way in ways.items()}, options.rounds, options.threads)
    print_costs(f"{options.network}, {len(chosen)} pictures, {options.threads} threads", costs, next(iter(ways)))
    print_row("loading, converted before", "wall s", "CPU s")
    print("|---|---|---|")
    for name, way in ways.items():
        if not isinstance(costs[name], str):
            print_row(name, *map(number, apart(partial(loading_time, way, options.threads))))


def convert(way: Callable[[], Model]) -> None:
    """Convert where a runtime needs that, so that it happens in no process whose memory is measured."""
    with suppress(InputError):  # whoever wants the conversion will say so
        way()


def build(way: Callable[[], Model], files: Sequence[Path]) -> Step:
    """One runtime with one precision; each step takes the next picture."""
    model = way()
    images = itertools.cycle([read_image(file) for file in files])

    def step() -> str:
        result = model(next(images))
        return f"{len(result.segments or ())} segments"

    return step


def loading_time(way: Callable[[], Model], threads: int) -> tuple[float, float]:
    """Seconds and processor seconds until the network can be called, with the import of a runtime, if it has one."""
    set_num_threads(threads)
    wall, processor = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
