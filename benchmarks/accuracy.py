"""How good a recipe gets within a budget of training on two processor cores: several seeds, a table and a curve.

    python benchmarks/accuracy.py tiny_facades --data ROOT --cpu-seconds 3933 --out runs/accuracy_facades
    python benchmarks/accuracy.py tiny_nuclei --data ROOT --minutes 15 --out runs/accuracy_nuclei

The budget is that of one training, evaluations and start included: `--minutes` where nothing else runs,
`--cpu-seconds` of all processes together on a machine that does other work as well. Two short runs come first, to
learn what a step costs; the recipe's schedule is then stretched to fill the budget. Training runs in two processes of
one thread each, which on a processor get through more pictures than one process of two threads. Runs that are done
are kept: called again with the same folder, the script makes those that are missing.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from keeping import kept

from thingstuff.checkpoint import load_checkpoint
from thingstuff.evaluate import Evaluation, evaluate_pictures
from thingstuff.labels import LabelSet
from thingstuff.predict import Model
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import find_recipe
from thingstuff.training.logs import read_rows
from thingstuff.training.sources import open_evaluation_source

SHORT_RUNS = 20, 60
"""Steps of the two runs whose difference says what a step costs."""
EVALUATIONS = 5
"""Points of the curve."""


def main() -> None:
    """Train what is missing, then print the table and the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float)
    budget.add_argument("--cpu-seconds", type=float)
    parser.add_argument("--seeds", type=int, default=3, help="how many runs: with the seeds 0, 1, ...")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: at least one run is needed")
    recipe = find_recipe(options.recipe)
    steps = plan_steps(recipe, options)
    recipe = scaled(recipe, steps)
    folders = [options.out / f"seed{seed}" for seed in range(options.seeds)]
    costs = [train(recipe, folder, seed, options) for seed, folder in enumerate(folders)]
    print_table([evaluate(folder / "last.safetensors", options.data) for folder in folders], costs)
    pictures = steps * recipe.optim.batch_size
    print(
        f"\n{steps} steps, {pictures} pictures; {statistics.median(pictures / cost[1] for cost in costs):.2f} a CPU s"
    )
    for folder in folders:
        print_curve(folder, recipe.optim.batch_size)


def plan_steps(recipe: Recipe, options: argparse.Namespace) -> int:
    """How many steps fill the budget."""
    shorts = [train(scaled(recipe, steps), options.out / f"short{steps}", 0, options) for steps in SHORT_RUNS]
    unit, budget = (0, 60 * options.minutes) if options.minutes is not None else (1, options.cpu_seconds)
    first, second = (short[unit] for short in shorts)
    step = (second - first) / (SHORT_RUNS[1] - SHORT_RUNS[0])
    # Each short run has one start and one evaluation; here every evaluation counts as both, so the budget holds.
    return int((budget - EVALUATIONS * (first - SHORT_RUNS[0] * step)) / step)


def scaled(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with a schedule of so many steps."""
    short = steps <= max(SHORT_RUNS)
    return derive(
        recipe,
        schedule__steps=steps,
        schedule__warmup_steps=min(recipe.schedule.warmup_steps, steps // 10),
        schedule__evaluate_every=steps if short else -(-steps // EVALUATIONS),
    )


def train(recipe: Recipe, folder: Path, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Train one network, unless that is done; wall and CPU seconds that it took."""

    def measure() -> tuple[float, float]:
        source = folder.with_suffix(".json")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(recipe.model_dump_json(), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
        words = ["-m", "thingstuff.cli", "train", str(source), "--out", str(folder), "--seed", str(seed)]
        words += ["--data", str(options.data)] if options.data else []
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, *(launcher if options.processes > 1 else []), *words]
        subprocess.run(command, env=environment, check=True)
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return wall, processor

    wall, processor = kept(folder, recipe, measure)
    return wall, processor


def evaluate(file: Path, data: Path | None) -> tuple[Evaluation, LabelSet]:
    """All numbers of a trained network on the validation pictures."""
    checkpoint = load_checkpoint(file)
    source = open_evaluation_source(checkpoint.recipe, data, "val")
    return evaluate_pictures(Model(checkpoint), source, range(len(source)), with_ap=True).evaluation(), source.labels


def print_table(results: list[tuple[Evaluation, LabelSet]], costs: list[tuple[float, float]]) -> None:
    """Print every seed and their mean and standard deviation, as Markdown."""
    rows: dict[str, list[float]] = {}
    for (evaluation, labels), (wall, processor) in zip(results, costs, strict=True):
        score = evaluation.panoptic
        assert score is not None
        values = {"PQ": score.pq, "SQ": score.sq, "RQ": score.rq}
        values |= {f"PQ {name}": group.pq for name in ("things", "stuff") if (group := getattr(score, name))}
        values |= {f"{name} AP": ap.ap for name in ("box", "mask") if (ap := getattr(evaluation, name))}
        values |= {f"PQ {one.name}": score.per_class[one.id].pq for one in labels.categories}
        for name, value in values.items():
            rows.setdefault(name, []).append(100 * value if value is not None else float("nan"))
        rows.setdefault("minutes", []).append(wall / 60)
        rows.setdefault("CPU s", []).append(processor)
    print(f"| | {' | '.join(f'seed {seed}' for seed in range(len(results)))} | mean |")
    print(f"|---|{'---|' * (len(results) + 1)}")
    for name, values in rows.items():
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} | {statistics.mean(values):.1f}{spread} |")


def print_curve(folder: Path, batch_size: int) -> None:
    """Print panoptic quality against pictures seen, in a line."""
    rows = read_rows(folder / "evaluations.csv")
    points = [f"{int(row['step']) * batch_size}: {100 * float(row['pq']):.1f}" for row in rows]
    print(f"{folder.name}, PQ by pictures seen: {', '.join(points)}")


if __name__ == "__main__":
    main()
