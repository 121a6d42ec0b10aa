"""How quickly a recipe learns: trains it and prints panoptic quality against time.

    python benchmarks/learning.py tiny_scenes --out runs/learning
    python benchmarks/learning.py tiny_facades --data ROOT --out runs/learning_facades

Minutes are those of training steps alone, without the evaluations between them. On a machine that does other work as
well, the processor time of the whole run, printed last, is the fairer figure.
"""

import argparse
import time
from pathlib import Path

from thingstuff.recipe import derive
from thingstuff.recipes import find_recipe
from thingstuff.training.logs import read_rows
from thingstuff.training.loop import train
from thingstuff.training.run import Run


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="length of the schedule; default: the recipe's")
    parser.add_argument("--evaluations", type=int, default=8)
    options = parser.parse_args()
    recipe = find_recipe(options.recipe)
    steps = options.steps or recipe.schedule.steps
    recipe = derive(recipe, schedule__steps=steps, schedule__evaluate_every=max(1, steps // options.evaluations))
    processor, wall = time.process_time(), time.perf_counter()
    train(recipe, Run(options.out, options.data))
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    print_table(options.out, recipe.optim.batch_size)
    print(f"\nwhole run: {wall / 60:.1f} minutes, {processor:.0f} s of processor time")


def print_table(out: Path, batch_size: int) -> None:
    """Print every evaluation with the pictures and minutes of training before it, as Markdown."""
    seconds, minutes = 0.0, {}
    for row in read_rows(out / "steps.csv"):
        seconds += batch_size / float(row["images_per_second"])
        minutes[row["step"]] = seconds / 60
    print("| step | pictures | minutes | PQ | SQ | RQ | PQ things | PQ stuff |")
    print("|---|---|---|---|---|---|---|---|")
    for row in read_rows(out / "evaluations.csv"):
        numbers = [f"{100 * float(row.get(name) or 'nan'):.1f}" for name in ("pq", "sq", "rq", "pq_things", "pq_stuff")]
        pictures = int(row["step"]) * batch_size
        print(f"| {row['step']} | {pictures} | {minutes[row['step']]:.1f} | {' | '.join(numbers)} |")


if __name__ == "__main__":
    main()
