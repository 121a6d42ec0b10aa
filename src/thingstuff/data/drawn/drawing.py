"""What an annotation tool says of a picture, before it becomes one id map: the seam between readers and painter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from thingstuff.structures import Size


@dataclass(frozen=True, slots=True)
class Piece:
    """One drawn shape: an object, a part of one, or stuff.

    Attributes:
        category: Name of its category; None: nobody shall learn from or count these pixels (void).
        mask: Its pixels inside the rectangle that begins at ``corner``.
        corner: Row and column of the mask's first pixel in the upright picture; the mask lies inside the picture.
        group: Pieces of one category and group are one object; None: an object of its own. Stuff needs no group.
        crowd: A crowd of objects that are not told apart.
    """

    category: str | None
    mask: Bool[np.ndarray, "h w"]
    corner: tuple[int, int]
    group: int | str | None = None
    crowd: bool = False


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
