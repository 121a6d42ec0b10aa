"""What a JSON file of the COCO panoptic format lists, as far as it can be read."""

from dataclasses import dataclass
from pathlib import Path

from thingstuff.data.checking.kinds import Finding
from thingstuff.data.layouts import PanopticFiles
from thingstuff.structures import Size

_LONGEST = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """Where one split lies.

    Attributes:
        split: Its name.
        place: What was found of it.
    """

    split: str
    place: PanopticFiles

    @property
    def json(self) -> Path:
        """The JSON file in COCO panoptic format."""
        return self.place.json_path

    @property
    def images(self) -> Path:
        """The folder of the pictures, perhaps shared with other splits."""
        return self.place.image_folder

    @property
    def maps(self) -> Path:
        """The folder of the PNG files."""
        return self.place.map_folder

    def stored(self, file_name: str) -> str:
        """A picture's place in its folder."""
        return self.place.picture_name(file_name)


@dataclass(frozen=True, slots=True)
class ListedCategory:
    """A category, as far as it can be read.

    Attributes:
        id: The data set's own id.
        name: Its name.
        isthing: None where the file does not say.
        color: RGB; None where the file does not say.
    """

    id: int
    name: str
    isthing: bool | None
    color: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class ListedSegment:
    """A segment, as far as it can be read.

    Attributes:
        id: Its value in the PNG file, perhaps one that no PNG file can hold.
        category_id: None where it cannot be read.
        area: None where it is not given.
        bbox: ``(x, y, width, height)``; None where it is not given.
        crowd: A group of objects.
    """

    id: int
    category_id: int | None
    area: int | float | None
    bbox: tuple[int | float, int | float, int | float, int | float] | None
    crowd: bool


@dataclass(frozen=True, slots=True)
class ListedPicture:
    """An annotated picture, as far as it can be read.

    Attributes:
        file_name: Of the picture; None where it cannot be read or the picture is not listed.
        size: Of the upright picture; None likewise.
        map_name: Of the PNG file; None where it cannot be read.
        segments: Of the PNG file.
    """

    file_name: str | None
    size: Size | None
    map_name: str | None
    segments: tuple[ListedSegment, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """What the JSON file of a split lists.

    Attributes:
        files: Where the split lies.
        categories: Each id once.
        pictures: The annotated ones.
        image_names: File names of all pictures, also of those without annotation.
        complete: The file can be read, so what it does not list is not listed.
        findings: What is wrong so far.
    """

    files: SplitFiles
    categories: tuple[ListedCategory, ...]
    pictures: tuple[ListedPicture, ...]
    image_names: tuple[str, ...]
    complete: bool
    findings: tuple[Finding, ...]


def shown(value: object) -> str:
    """A value of a JSON file for a message, short whatever it is."""
    match value:
        case None:
            return "missing"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case float() if value.is_integer() and abs(value) < 1e15:
            return f"{value:.0f}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def relative(path: Path, root: Path) -> str:
    """A path for a message: without the root's where it lies below it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
