"""Which classes a foreign network knows: COCO's, Cityscapes', or those of a file that the user names."""

import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from thingstuff.errors import InputError
from thingstuff.labels import LabelSet


def coco_labels() -> LabelSet:
    """COCO's 133 panoptic categories: 53 stuff and 80 things."""
    return _shipped("coco.toml", "COCO")


def cityscapes_labels() -> LabelSet:
    """Cityscapes' 19 evaluated classes: 11 stuff and 8 things, with the data set's label ids (7 to 33)."""
    return _shipped("cityscapes.toml", "Cityscapes")


def read_labels(path: Path | str) -> LabelSet:
    """Read a label set from a file.

    Args:
        path: A COCO panoptic JSON file (its ``categories``), or a TOML file with one ``[[category]]`` table for each
            class: ``id`` (whole number), ``name``, ``isthing`` (true or false), and perhaps ``color`` (three numbers).

    Raises:
        InputError: The file cannot be read, or a category is not as it should be.
    """
    file = Path(path)
    key = "category" if file.suffix == ".toml" else "categories"
    try:
        text = file.read_text(encoding="utf-8")
        content: Any = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path given as --labels") from error
    except ValueError as error:
        kind = "TOML" if file.suffix == ".toml" else "JSON"
        raise InputError(
            f"{file}: not {kind} ({error}); give --labels a COCO panoptic .json or a .toml with [[category]] tables"
        ) from error
    if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
        raise InputError(f"{file}: has no list {key!r}; list every class there with id, name and isthing")
    return LabelSet.from_coco(content[key], str(file))


def labels_for(num_stuff: int, num_things: int, labels: Path | str | None, source: str) -> LabelSet:
    """The classes of a foreign network with so many outputs.

    Args:
        num_stuff: Stuff classes of the network.
        num_things: Thing classes of the network.
        labels: File with the classes; None: COCO's, COCO's things or Cityscapes', if the numbers are theirs.
        source: What to call the network in messages.

    Raises:
        InputError: The file lists another number of classes, or none is given and the numbers are of neither.
    """
    counts = f"{source} has {num_things} thing and {num_stuff} stuff classes"
    if labels is None:
        for known in (coco_labels(), things_only(coco_labels()), cityscapes_labels()):
            if (known.num_stuff, known.num_things) == (num_stuff, num_things):
                return known
        raise InputError(
            f"{counts}, which are not COCO's or Cityscapes'; name them with --labels panoptic.json or labels.toml"
        )
    found = read_labels(labels)
    if (found.num_stuff, found.num_things) == (num_stuff, num_things):
        return found
    raise InputError(
        f"{counts}, but {labels} lists {found.num_things} and {found.num_stuff}; list exactly the classes it was "
        "trained with"
    )


def things_only(labels: LabelSet) -> LabelSet:
    """The thing classes of a label set."""
    return LabelSet(tuple(category for category in labels.categories if category.isthing))


def _shipped(file: str, name: str) -> LabelSet:
    text = (resources.files("thingstuff") / "convert" / file).read_text(encoding="utf-8")
    return LabelSet.from_coco(tomllib.loads(text)["category"], name)
