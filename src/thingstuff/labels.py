"""Class names, kinds and colours, and the one class order that holds everywhere in the package."""

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from thingstuff.errors import InputError

MAX_CATEGORIES = 255
"""Label maps are 8-bit and 255 is void."""


@dataclass(frozen=True, slots=True)
class Category:
    """One class of a data set.

    Attributes:
        id: The data set's own category id.
        name: Name in full.
        isthing: A countable object, not amorphous stuff.
        color: RGB.
    """

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set in class order: stuff by category id, then things by category id.

    Attributes:
        categories: In class order; the position is the class index.
    """

    categories: tuple[Category, ...]

    @classmethod
    def from_coco(cls, categories: Iterable[Mapping[str, Any]], source: str) -> "LabelSet":
        """Read the ``categories`` of a COCO panoptic JSON file.

        Args:
            categories: Each with ``id``, ``name``, ``isthing`` and perhaps ``color``.
            source: What to call the origin in messages, for example the file's path.

        Raises:
            InputError: A field is missing or of the wrong kind, or an id or a name occurs twice.
        """
        read = [_read_category(category, position, source) for position, category in enumerate(categories)]
        if not read:
            raise InputError(f"{source}: 'categories' is empty; list every class with id, name and isthing")
        if len(read) > MAX_CATEGORIES:
            raise InputError(
                f"{source}: {len(read)} categories, at most {MAX_CATEGORIES} can be told apart; merge rare ones"
            )
        for field in ("id", "name"):
            values = [getattr(category, field) for category in read]
            for value in values:
                if values.count(value) > 1:
                    raise InputError(f"{source}: two categories have the {field} {value!r}; give each its own")
        return cls(tuple(sorted(read, key=lambda category: (category.isthing, category.id))))

    def to_coco(self) -> list[dict[str, Any]]:
        """The ``categories`` of a COCO panoptic JSON file, by ascending id."""
        return [
            {"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color), "supercategory": c.name}
            for c in sorted(self.categories, key=lambda category: category.id)
        ]

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def num_stuff(self) -> int:
        """Number of stuff classes, which come first."""
        return sum(not category.isthing for category in self.categories)

    @cached_property
    def num_things(self) -> int:
        """Number of thing classes, which come last."""
        return len(self.categories) - self.num_stuff

    @cached_property
    def index(self) -> Mapping[int, int]:
        """Class index of each category id."""
        return {category.id: index for index, category in enumerate(self.categories)}

    @cached_property
    def category_ids(self) -> Int64[np.ndarray, " n"]:
        """Category id of each class index."""
        return np.array([category.id for category in self.categories], dtype=np.int64)


def _read_category(category: Mapping[str, Any], position: int, source: str) -> Category:
    where = f"{source}: categories[{position}]"
    if not isinstance(category, Mapping):
        raise InputError(f"{where} is {category!r}, not an object with id, name and isthing")
    for field in ("id", "name", "isthing"):
        if field not in category:
            hint = "; 1 for countable things, 0 for stuff" if field == "isthing" else ""
            raise InputError(f"{where} ({category.get('name', 'unnamed')!r}) lacks '{field}'{hint}")
    identity, name, isthing = category["id"], category["name"], category["isthing"]
    if isinstance(identity, bool) or not isinstance(identity, int) or identity < 0:
        raise InputError(f"{where}: id is {identity!r}, not a whole number from 0")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: name is {name!r}, not a text")
    if isthing not in (0, 1):
        raise InputError(f"{where} ({name!r}): isthing is {isthing!r}; write 1 for countable things, 0 for stuff")
    color = category.get("color") or default_color(position)
    listed = isinstance(color, list | tuple) and len(color) == 3
    if not listed or not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
        raise InputError(f"{where} ({name!r}): color is {color!r}, not three numbers from 0 to 255")
    return Category(identity, name, bool(isthing), (color[0], color[1], color[2]))


def default_color(position: int) -> tuple[int, int, int]:
    """A colour for the class at ``position`` that differs from its neighbours'.

    Hues advance by the golden ratio, which spreads any number of them evenly.
    """
    hue = position * 0.6180339887498949 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 if position % 2 else 0.8, 0.95 if position % 3 else 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def find_difference(one: LabelSet, other: LabelSet) -> tuple[int, str, str] | None:
    """The first category that is not the same in two sets, and what it is in each; None where they agree."""
    ours = {category.id: (category.name, category.isthing) for category in one.categories}
    theirs = {category.id: (category.name, category.isthing) for category in other.categories}
    for identity in sorted(ours.keys() | theirs.keys()):
        if ours.get(identity) != theirs.get(identity):
            return identity, _describe_category(ours.get(identity)), _describe_category(theirs.get(identity))
    return None


def _describe_category(category: tuple[str, bool] | None) -> str:
    return "absent" if category is None else f"{category[0]!r} ({'thing' if category[1] else 'stuff'})"
