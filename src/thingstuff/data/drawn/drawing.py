"""What an annotation tool says of a picture, before it becomes one id map: the seam between readers and painter."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool

from thingstuff.data.drawn.polygons import Placed
from thingstuff.structures import Size

Content = TypeVar("Content")
"""A shape as the file has it: an XML element or a JSON object."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One drawn shape: an object, a part of one, or stuff.

    Attributes:
        category: Name of its category; None: nobody shall learn from or count these pixels (void).
        mask: Its pixels inside the rectangle that begins at ``corner``.
        corner: Row and column of the mask's first pixel in the upright picture; the mask lies inside the picture.
        group: Pieces of one category and group are one object; None: an object of its own. Stuff needs no group.
        crowd: A crowd of objects that are not told apart.
        where: File, picture and shape, for messages; None: its number in the drawing is all there is to say.
    """

    category: str | None
    mask: Bool[np.ndarray, "h w"]
    corner: tuple[int, int]
    group: int | str | None = None
    crowd: bool = False
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn on one picture.

    Attributes:
        image: The picture's file.
        size: Height and width of the upright picture.
        pieces: In the order of drawing: what the tool shows on top comes last.
        split: The split that the source itself puts the picture in; None: it knows of none.
    """

    image: Path
    size: Size
    pieces: tuple[Piece, ...]
    split: str | None = None


@dataclass(frozen=True, slots=True)
class DrawnCategory:
    """A category as the source knows it.

    Attributes:
        name: Its name, which is all that counts; ids of the source mean nothing outside.
        isthing: None: the source does not say.
        color: RGB; None: the source does not say.
    """

    name: str
    isthing: bool | None = None
    color: tuple[int, int, int] | None = None


@runtime_checkable
class DrawingSource(Protocol):
    """The annotated pictures of one export of a tool; opening it checks what needs no pixels."""

    @property
    def categories(self) -> tuple[DrawnCategory, ...]:
        """In the order of the source."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Drawing:
        """Decode the shapes of one picture; its own file is opened only for the size, where the source has none.

        Raises:
            InputError: The annotation is damaged, or does not fit the picture.
        """
        ...


# --- tools that list shapes of a picture ---


@dataclass(frozen=True, slots=True)
class Shape(Generic[Content]):
    """One shape that is not decoded yet; the other fields are those of its ``Piece``.

    Attributes:
        content: What the file says of it.
        where: File, picture and shape, for messages.
    """

    content: Content
    category: str
    group: int | str | None
    where: str
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class ShapedPicture(Generic[Content]):
    """One picture and its shapes, the lowest first; the other fields are those of its ``Drawing``."""

    image: Path
    size: Size
    shapes: tuple[Shape[Content], ...]
    split: str | None = None


@dataclass(frozen=True)
class ShapeSource(Generic[Content]):
    """The pictures of an export that lists shapes (a ``DrawingSource``).

    Attributes:
        categories: In the order of the export.
        pictures: With their shapes.
        decode: From what the file says of a shape, the picture's size and where that stands to pixels.
    """

    categories: tuple[DrawnCategory, ...]
    pictures: tuple[ShapedPicture[Content], ...]
    decode: Callable[[Content, Size, str], Placed]

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> Drawing:
        """Decode the shapes of one picture.

        Raises:
            InputError: A shape is damaged, or does not lie in the picture.
        """
        picture = self.pictures[index]
        pieces = [
            Piece(
                shape.category,
                *self.decode(shape.content, picture.size, shape.where),
                shape.group,
                shape.crowd,
                shape.where,
            )
            for shape in picture.shapes
        ]
        return Drawing(picture.image, picture.size, tuple(pieces), picture.split)
