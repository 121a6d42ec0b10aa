"""Fields of a recipe changed on the command line: `--optim.learning-rate 0.01 --model.region None`."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from thingstuff.errors import InputError
from thingstuff.recipe import CLASS_COUNTS, FROM_CATEGORIES, Recipe, field_names, read_recipe

Overrides = Mapping[str, Sequence[str]]
"""Words given for each dotted field, as they stand on the command line."""


def split_overrides(words: Sequence[str], options: Set[str]) -> tuple[Overrides, list[str]]:
    """Tell fields of the recipe from the command's own options.

    Args:
        words: What stands behind the recipe's name.
        options: Names of the command's own options.

    Returns:
        The fields with their words, and the remaining words.

    Raises:
        InputError: A flag is neither; the message names the nearest that is.
    """
    fields = set(field_names()) - {"name"}
    overrides: dict[str, list[str]] = {}
    rest: list[str] = []
    taking: list[str] = rest
    for word in words:
        if not word.startswith("--"):
            taking.append(word)
            continue
        flag, equals, value = word.removeprefix("--").partition("=")
        name = flag.replace("-", "_")
        if name in options or name == "help":
            taking = rest
            rest.append(word)
            continue
        name, negative = _field_of(name, fields, options)
        # Given twice, the last counts.
        taking = overrides[name] = ["false"] if negative else [value] if equals else []
    return overrides, rest


def override(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe with its fields changed, validated as a whole.

    Words become what the field asks for; `None` switches an optional part off; a flag without words means true; JSON is
    read as it is, for example `'[[8], [16]]'`.

    Raises:
        InputError: A value does not fit.
    """
    values = recipe.model_dump()
    for path, words in overrides.items():
        *parents, last = path.split(".")
        target: Any = values
        for parent in parents:
            if target[parent] is None:
                raise InputError(f"--{_flag(path)}: {parent} of recipe {recipe.name} is None, so it has no {last}")
            if isinstance(target[parent], tuple):
                target[parent] = list(target[parent])
            target = target[parent]
        _set(target, last, words, _flag(path))
    return read_recipe(values, f"recipe {recipe.name}")


def _set(target: Any, last: str, words: Sequence[str], flag: str) -> None:
    """Put the words in their place: a field of a part, or a row of a table such as `--...anchor-sizes.0 8`."""
    if isinstance(target, list):
        if int(last) >= len(target):
            raise InputError(f"--{flag}: there are {len(target)} rows, counted from 0")
        target[int(last)] = tuple(words)
        return
    if not isinstance(target, dict):
        raise InputError(f"--{flag} is not an option; {flag.rpartition('.')[0]} has no rows")
    if not words and not isinstance(target.get(last), bool | tuple | list):
        raise InputError(f"--{flag} has no value; write one behind it")
    target[last] = _value(words, isinstance(target.get(last), tuple | list))


def _field_of(name: str, fields: Set[str], options: Iterable[str]) -> tuple[str, bool]:
    """The field that a flag means, and whether it is switched off by a leading `no-`."""
    section, _, last = name.rpartition(".")
    positive = f"{section}.{last.removeprefix('no_')}"
    if name in fields or (last.isdigit() and section in fields):
        return name, False
    if last.startswith("no_") and positive in fields:
        return positive, True
    if last in CLASS_COUNTS:
        raise InputError(f"--{_flag(name)} is not an option; {FROM_CATEGORIES}")
    known = {*fields, *options}
    neighbours = [field for field in known if field.rpartition(".")[0] == section] or known
    near = max(sorted(neighbours), key=lambda field: _likeness(field.rpartition(".")[2], last))
    raise InputError(f"--{_flag(name)} is not an option; did you mean --{_flag(near)}?")


def _likeness(field: str, word: str) -> tuple[bool, float]:
    """How likely a word was meant for a field: by its initials (`lr`), else by shared letters."""
    initials = "".join(part[0] for part in field.split("_"))
    return initials == word, difflib.SequenceMatcher(None, field, word).ratio()


def _value(words: Sequence[str], several: bool) -> Any:
    if not words:
        return () if several else True
    if words == ["None"]:
        return None
    if len(words) == 1 and words[0][:1] in "[{":
        try:
            return json.loads(words[0])
        except json.JSONDecodeError:
            return words[0]
    return tuple(words) if several or len(words) > 1 else words[0]


def _flag(name: str) -> str:
    return name.replace("_", "-")
