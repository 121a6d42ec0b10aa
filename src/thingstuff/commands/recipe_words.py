"""Recipes as they are named on the command line."""

import importlib.util
from pathlib import Path

from thingstuff.errors import InputError
from thingstuff.recipe import Recipe, read_recipe
from thingstuff.recipes import find_recipe


def chosen_recipe(word: str) -> Recipe:
    """A recipe by its name, from a JSON file, or from a function in somebody's own Python file."""
    path, _, function = (f"{word}:" if word.endswith(".py") else word).rpartition(":")
    if path.endswith(".py"):
        if not Path(path).exists():
            raise InputError(f"{path}: there is no such file; give FILE.py:FUNCTION")
        return _own_recipe(Path(path), function)
    if word.endswith(".json"):
        if not Path(word).is_file():
            raise InputError(f"{word}: there is no such file; every run folder has its recipe.json")
        return read_recipe(Path(word).read_bytes(), word)
    return find_recipe(word)


def _own_recipe(path: Path, function: str) -> Recipe:
    """The recipe that a function in somebody's own file returns."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        recipe = getattr(module, function)() if function and hasattr(module, function) else None
    except InputError:
        raise
    except Exception as error:  # whatever their code raises
        raise InputError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path}: which function returns the recipe? Give {path}:FUNCTION; {function!r} does not")
    return recipe
