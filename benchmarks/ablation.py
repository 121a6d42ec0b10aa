"""What each part adds: trains the same small network with and without it, several seeds each, and prints a table.

    python benchmarks/ablation.py upsnet --out runs/ablation
    python benchmarks/ablation.py panet --out runs/ablation
    python benchmarks/ablation.py facades --data ROOT --out runs/ablation
    python benchmarks/ablation.py nuclei --data ROOT --out runs/ablation

`upsnet` and `panet` learn scenes; `facades` and `nuclei`, with the parts of both, learn the pictures of a folder. The
same number of steps, the same seeds and so the same pictures in the same order. As the papers begin with a backbone
that knows ImageNet, all networks here begin with the backbone of the bundled network for these pictures, and learn all
else from nothing. Networks with UPSNet's panoptic head are judged twice, with it and with Panoptic FPN's heuristic on
the same weights. Runs that are done are kept: called again with the same folder, the script makes what is missing.
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from keeping import kept

from thingstuff.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from thingstuff.evaluate import Evaluation, evaluate_pictures
from thingstuff.predict import Model
from thingstuff.recipe import Recipe, derive
from thingstuff.recipe_model import BottomUpConfig, FusionConfig
from thingstuff.recipes import tiny_facades, tiny_nuclei, tiny_scenes, tiny_scenes_upsnet
from thingstuff.training.loop import train
from thingstuff.training.run import Run
from thingstuff.training.sources import open_evaluation_source

Numbers = dict[str, float]
"""What one run gave, by name."""


def upsnet_variants() -> dict[str, Recipe]:
    """Panoptic FPN, UPSNet, and UPSNet without each of its parts."""
    upsnet = tiny_scenes_upsnet()
    return {
        "Panoptic FPN, heuristic merge": tiny_scenes(),
        "UPSNet": upsnet,
        "UPSNet without RoI loss": derive(upsnet, loss__roi_semantic_weight=0.0),
        "UPSNet without unknown class": derive(upsnet, model__fusion__kept_fraction=1.0),
        "UPSNet without panoptic loss": derive(upsnet, loss__panoptic_weight=0.0),
    }


def panet_variants() -> dict[str, Recipe]:
    """The rows of PANet's table: each adds one part to the row above; but batch norm stands apart.

    Learned batch norms, in backbone, neck and mask head, need more steps than there are here (see the results), so the
    parts are added to the network without them.
    """
    baseline = derive(
        tiny_scenes(),
        model__semantic=None,
        model__fusion=None,
        model__backbone__norm="frozen_batch",
        model__region__box_head__channels=64,
        schedule__warmup_steps=100,
    )
    scales = derive(baseline, augmentation__scale_jitter=(0.8, 1.25), augmentation__crop=(128, 192))
    norms = derive(
        scales, model__backbone__norm="batch", model__neck__norm="batch", model__region__mask_head__norm="batch"
    )
    bottom_up = derive(scales, model__neck__bottom_up=BottomUpConfig())
    adaptive = derive(bottom_up, model__region__pool="adaptive")
    fused = derive(adaptive, model__region__mask_head__kind="fused")
    return {
        "Mask R-CNN": baseline,
        "+ several scales": scales,
        "(several scales + batch norm learned)": norms,
        "+ bottom-up path": bottom_up,
        "+ adaptive pooling": adaptive,
        "+ fully connected fusion": fused,
        "+ heavier box head": derive(fused, model__region__box_head__kind="heavy"),
    }


def part_variants(baseline: Recipe) -> dict[str, Recipe]:
    """A Panoptic FPN, with each part of UPSNet and PANet alone, and with all."""
    heads, fusion = tiny_scenes_upsnet(), baseline.model.fusion
    assert heads.model.fusion is not None
    assert fusion is not None
    limits = {"stuff_area": fusion.stuff_area, "stuff_frame": fusion.stuff_frame}
    upsnet = {
        "model__semantic": heads.model.semantic,
        "model__fusion": heads.model.fusion.model_copy(update=limits),
        "loss__roi_semantic_weight": heads.loss.roi_semantic_weight,
        "loss__panoptic_weight": heads.loss.panoptic_weight,
    }
    bottom_up = {"model__neck__bottom_up": BottomUpConfig()}
    adaptive = {"model__region__pool": "adaptive"}
    fused = {"model__region__mask_head__kind": "fused"}
    return {
        "Panoptic FPN": baseline,
        "+ UPSNet's semantic and panoptic head": derive(baseline, **upsnet),
        "+ bottom-up path": derive(baseline, **bottom_up),
        "+ adaptive pooling": derive(baseline, **adaptive),
        "+ fully connected fusion": derive(baseline, **fused),
        "all together": derive(baseline, **upsnet, **bottom_up, **adaptive, **fused),
    }


VARIANTS: Mapping[str, tuple[str, Callable[[], dict[str, Recipe]]]] = {
    "upsnet": ("tiny-scenes", upsnet_variants),
    "panet": ("tiny-scenes", panet_variants),
    "facades": ("tiny-facades", lambda: part_variants(tiny_facades())),
    "nuclei": ("tiny-nuclei", lambda: part_variants(tiny_nuclei())),
}
"""By name: the bundled network with whose backbone all begin, and the networks."""


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(VARIANTS))
    parser.add_argument("--data", type=Path, help="root of the pictures that facades and nuclei need")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    bundled, make_variants = VARIANTS[options.what]
    variants = make_variants()
    merge = next(iter(variants.values())).model.fusion
    results: dict[str, list[Numbers]] = {name: [] for name in variants}
    backbone = save_backbone(bundled, options.out / f"{bundled}-backbone.safetensors")
    # Seed by seed, so that a table of fewer seeds stands early.
    for seed in range(options.seeds):
        for name, recipe in variants.items():
            words = "_".join(re.findall(r"\w+", name))
            folder = options.out / options.what / f"{words}_seed{seed}"
            place = Run(folder, data=options.data, init=backbone, seed=seed)
            results[name].append(run(derive(recipe, schedule__steps=options.steps), place, merge))
    print_table(results)


def save_backbone(bundled: str, file: Path) -> Path:
    """Write a bundled network's backbone as a checkpoint of its own."""
    checkpoint = load_checkpoint(bundled)
    weights = {name: tensor for name, tensor in checkpoint.weights.items() if name.startswith("backbone.")}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, replace(checkpoint, weights=weights))
    return file


def run(recipe: Recipe, place: Run, merge: FusionConfig | None) -> Numbers:
    """Train one network and judge it; what is already there is read."""

    def measure() -> Numbers:
        processor = time.process_time()
        train(derive(recipe, schedule__evaluate_every=recipe.schedule.steps), place)
        processor = time.process_time() - processor
        return judge(place.out / "last.safetensors", place.data, merge) | {"CPU s": processor}

    return kept(place.out, recipe, measure)


def judge(file: Path, data: Path | None, merge: FusionConfig | None) -> Numbers:
    """The numbers of one network, in hundredths; one with a panoptic head is judged with the heuristic as well."""
    checkpoint = load_checkpoint(file)
    numbers = _numbers(_evaluate(checkpoint, data))
    fusion = checkpoint.recipe.model.fusion
    if fusion is not None and fusion.kind == "panoptic_logits":
        heuristic = derive(checkpoint.recipe, model__fusion=merge, loss__panoptic_weight=0.0)
        numbers["PQ by heuristic"] = _numbers(_evaluate(replace(checkpoint, recipe=heuristic), data))["PQ"]
    return numbers


def _evaluate(checkpoint: Checkpoint, data: Path | None) -> Evaluation:
    source = open_evaluation_source(checkpoint.recipe, data, "val")
    return evaluate_pictures(Model(checkpoint), source, range(len(source)), with_ap=True).evaluation()


def _numbers(found: Evaluation) -> Numbers:
    values: dict[str, float | None] = {}
    if (panoptic := found.panoptic) is not None:
        assert panoptic.things is not None
        assert panoptic.stuff is not None
        values |= {"PQ": panoptic.pq, "PQ things": panoptic.things.pq, "PQ stuff": panoptic.stuff.pq}
    values |= {"box AP": found.box and found.box.ap, "mask AP": found.mask and found.mask.ap}
    return {name: 100 * value for name, value in values.items() if value is not None}


def print_table(results: Mapping[str, list[Numbers]]) -> None:
    """Print mean and standard deviation over the seeds, as Markdown."""
    columns = list(dict.fromkeys(name for runs in results.values() for numbers in runs for name in numbers))
    print(f"| network | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for name, runs in results.items():
        cells = []
        for column in columns:
            values = [numbers[column] for numbers in runs if column in numbers]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 and column != "CPU s" else ""
            digits = 0 if column == "CPU s" else 1
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
