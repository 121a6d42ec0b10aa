r"""Makes of a training run the file that comes with the package: float16, judged again, with licence and credit.

    python benchmarks/bundle.py runs/facades/last.safetensors --data ROOT --credit "CC BY 4.0; ..." \
        --out src/thingstuff/weights/tiny-facades.safetensors

Thresholds and picture size are those of the recipe of that name as it stands today: they may be chosen after training.
What `finetune` has trained gets a name with ``--recipe``.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from thingstuff.checkpoint import load_checkpoint, save_checkpoint
from thingstuff.evaluate import evaluate_pictures
from thingstuff.predict import Model
from thingstuff.recipe import derive
from thingstuff.recipes import find_recipe
from thingstuff.tables import evaluation_table
from thingstuff.training.sources import open_evaluation_source


def main() -> None:
    """Write the file and print its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--recipe", help="of which recipe the file is; default: the one that was trained")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--credit", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    trained = load_checkpoint(options.checkpoint)
    today = find_recipe(options.recipe or trained.recipe.name)
    recipe = derive(
        trained.recipe, name=today.name, picture=today.picture, model__fusion=today.model.fusion, tta=today.tta
    )
    bundled = replace(trained, recipe=recipe, credit=options.credit, metrics={})
    save_checkpoint(options.out, bundled, torch.float16)
    # What the file holds is judged, not what was rounded to make it; loading refuses what did not fit into float16.
    source = open_evaluation_source(recipe, options.data, "val")
    model = Model(load_checkpoint(options.out))
    evaluation = evaluate_pictures(model, source, range(len(source)), with_ap=True).evaluation()
    save_checkpoint(options.out, replace(bundled, metrics=evaluation.to_json()), torch.float16)
    print(evaluation_table(evaluation))


if __name__ == "__main__":
    main()
