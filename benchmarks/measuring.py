"""What the benchmarks of speed and memory share: contenders side by side in one run, each in a process of its own.

A contender is prepared in its process, stands ready there, and is asked in turn with all others, so that times are
taken in the same minutes and the peak of memory is its own.
"""

import argparse
import math
import multiprocessing
import multiprocessing.process
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar, get_args

import torch
from panoptic_head import PROCESS, resident

from thingstuff.arithmetic import usable_precision
from thingstuff.structures import Precision, Size

Step = Callable[[], str]
"""What is measured; says in a few words what came out, so that contenders can be compared."""
Build = Callable[[], Step]
"""Prepares a contender in its own process: imports and loading, which do not count."""
Result = TypeVar("Result")
PRECISIONS = tuple(one for one in get_args(Precision) if usable_precision(one, torch.device("cpu")) == one)
"""Those that this machine has."""
PAUSE = 0.3
"""Seconds between turns, in which the waiting threads of the last contender go to sleep."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call of a contender takes.

    Attributes:
        wall: Median seconds.
        processor: Median seconds, summed over the threads.
        memory: Largest peak in megabytes above what stands after import and loading; NaN where the system does not
            tell (only Linux does).
        found: What the last call said.
    """

    wall: float
    processor: float
    memory: float
    found: str


def compare(contenders: Mapping[str, Build], rounds: int, threads: int) -> dict[str, Cost | str]:
    """Measure contenders turn about.

    Args:
        contenders: By name; what builds them has to be importable.
        rounds: Turns that count; two calls before them warm up.
        threads: Of each contender.

    Returns:
        The cost of each, or why there is none.
    """
    context = multiprocessing.get_context("spawn")
    results: dict[str, Cost | str] = {}
    running: dict[str, tuple[Connection, multiprocessing.process.BaseProcess]] = {}
    turns: dict[str, list[Cost]] = {}
    for name, build in contenders.items():
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, build, threads), daemon=True)
        process.start()
        there.close()
        answer = _ask(here)  # one after the other, because preparing takes all cores; this turn does not count
        if isinstance(answer, str):
            results[name] = answer
        else:
            running[name], turns[name] = (here, process), []
    for _ in range(rounds):
        for name, (connection, _) in list(running.items()):
            time.sleep(PAUSE)
            answer = _ask(connection)
            if isinstance(answer, str):
                results[name] = answer
                del running[name]
            else:
                turns[name].append(answer)
    for name, (connection, process) in running.items():
        connection.close()
        process.join()
        results[name] = _summary(turns[name])
    return {name: results[name] for name in contenders}


def _ask(connection: Connection) -> Cost | str:
    """What a contender takes now, or why it cannot go on."""
    try:
        connection.send(None)
        return connection.recv()
    except (EOFError, OSError):
        return "its process ended, perhaps for want of memory"


def _work(connection: Connection, build: Build, threads: int) -> None:
    """The life of a contender: prepare, warm up, and then be measured whenever asked."""
    torch.set_num_threads(threads)
    try:
        step = build()
        standing = resident("VmRSS") if _tells_memory() else math.nan
        step()
        while True:
            connection.recv()
            connection.send(_measure(step, standing))
    except EOFError:
        return  # nobody asks any more
    except Exception as error:  # every runtime has exceptions of its own
        connection.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def _measure(step: Step, standing: float) -> Cost:
    tells = _tells_memory()
    if tells:
        (PROCESS / "clear_refs").write_text("5")  # forgets the peak so far
    wall, processor = time.perf_counter(), time.process_time()
    found = step()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Cost(wall, processor, resident("VmHWM") - standing if tells else math.nan, found)


def _tells_memory() -> bool:
    return (PROCESS / "clear_refs").exists()


def _summary(turns: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(turn.wall for turn in turns),
        statistics.median(turn.processor for turn in turns),
        max(turn.memory for turn in turns),
        turns[-1].found,
    )


def apart(function: Callable[[], Result]) -> Result:
    """Call a function in a process of its own, which leaves no threads and no memory behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function)


# --- tables and command lines ---


def print_costs(title: str, costs: Mapping[str, Cost | str], base: str) -> None:
    """Print a table, and below it who is missing and why.

    Args:
        title: Heads the first column.
        costs: From ``compare``.
        base: How many times faster the others are than this one.
    """
    print_row(title, "wall s", "CPU s", f"times faster than {base}, wall", "CPU", "peak memory, MB", "found")
    print("|---|---|---|---|---|---|---|")
    first = costs.get(base)
    for name, cost in costs.items():
        if isinstance(cost, str):
            continue
        ratios = ["", ""]
        if isinstance(first, Cost):
            ratios = [f"{first.wall / cost.wall:.2f}", f"{first.processor / cost.processor:.2f}"]
        print_row(name, number(cost.wall), number(cost.processor), *ratios, f"{cost.memory:.0f}", cost.found)
    for name, cost in costs.items():
        if isinstance(cost, str):
            print(f"\n{name}: not measured ({cost})")
    print(flush=True)


def print_row(*cells: str) -> None:
    """Print one line of a Markdown table."""
    print("| " + " | ".join(cells) + " |")


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(2 - math.floor(math.log10(value)), 0)}f}" if value > 0 else "0"


def by_size(size: Size) -> str:
    """A size as it is written: 800x1216."""
    return f"{size[0]}x{size[1]}"


def read_size(text: str) -> Size:
    """Read a size such as 800x1216."""
    height, width = text.split("x")
    return int(height), int(width)


def make_parser(description: str | None, *, size: Size, rounds: int = 5) -> argparse.ArgumentParser:
    """A parser with the options that all these scripts have: ``--size``, ``--rounds`` and ``--threads``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=size, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser
