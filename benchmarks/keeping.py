"""Results of long runs, kept in their folders, so that a script that is called again makes only what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from thingstuff.recipe import Recipe

Results = TypeVar("Results")
"""What JSON can hold."""


def kept(folder: Path, recipe: Recipe, measure: Callable[[], Results]) -> Results:
    """The results of the run in a folder; measured now where there is none.

    Ends the script where the folder holds a run of something else, or one that was interrupted: what that had cost is
    not known, and nothing is deleted here.
    """
    file, settings = folder / "results.json", recipe.model_dump(mode="json")
    if not file.exists():
        if folder.exists():
            raise SystemExit(f"{folder}: holds a run that was interrupted; delete it, and it begins anew")
        results = measure()
        file.write_text(json.dumps({"recipe": settings, "results": results}), encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["recipe"] != settings:
        raise SystemExit(f"{folder}: holds a run of another recipe or length; give another --out")
    return found["results"]
