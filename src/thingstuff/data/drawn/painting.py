"""Drawn pieces to one id map: who owns a pixel that several objects were drawn over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from thingstuff.data.coco import annotated_segment
from thingstuff.data.drawn.drawing import Drawing, Piece
from thingstuff.data.drawn.polygons import unite
from thingstuff.data.images import locate_segments
from thingstuff.errors import InputError
from thingstuff.labels import Category
from thingstuff.structures import Panoptic, Segment

Overlap = Literal["error", "skip", "smaller-on-top", "last-wins", "by-order"]
"""Who keeps a pixel of several segments.

* ``error``: nobody; the picture is refused.
* ``skip``: the piece that was drawn first; a later one gets what is still free.
* ``last-wins``: the piece that was drawn last.
* ``smaller-on-top``: the segment with fewer pixels as drawn, all its pieces together; of equal ones the piece drawn
  last.
* ``by-order``: the category with the lower id, which comes first in ``labels.toml``, and void before all; of one
  category the piece drawn last.

Void pieces are one segment and take part like all others: what they keep is painted 0.
"""


@dataclass(frozen=True, slots=True)
class Painting:
    """What became of one drawing.

    Attributes:
        panoptic: Segments numbered from 1 in the order of their first pieces.
        lost_pixels: Drawn pixels of segments that another segment has now.
        hidden: Segments that lost all their pixels, and are left out.
        empty: Segments that had no pixel from the beginning, and are left out.
    """

    panoptic: Panoptic
    lost_pixels: int
    hidden: int
    empty: int


@dataclass(frozen=True, slots=True)
class _Owner:
    """What one segment is made of; no category: void."""

    category: Category | None
    crowd: bool
    pieces: tuple[int, ...]
    area: int


def paint(drawing: Drawing, table: Mapping[str, Category | None], overlap: Overlap) -> Painting:
    """Paint what is drawn on a picture into one id map.

    Pieces of one category and group are one segment, crowds and others apart; of a stuff category all pieces of the
    picture are one, and no crowd.

    Args:
        drawing: Pieces of the same picture.
        table: The category of every name in the drawing; None: void.
        overlap: Who keeps a pixel of several segments.

    Raises:
        InputError: A piece does not lie in the picture or has an unknown name, or pieces overlap that must not.
    """
    owners, owner_of = _collect_owners(drawing, table)
    rows = np.zeros(drawing.size, dtype=np.int32)
    for index in _painting_order(owners, owner_of, overlap):
        piece, row = drawing.pieces[index], owner_of[index] + 1
        (top, left), (height, width) = piece.corner, piece.mask.shape
        covered = rows[top : top + height, left : left + width]
        if overlap == "error":
            _check_free(covered[piece.mask], row, index, owners, drawing)
        covered[piece.mask] = row
    return _finish(rows, owners)


def _collect_owners(drawing: Drawing, table: Mapping[str, Category | None]) -> tuple[list[_Owner], list[int]]:
    """The segments of a drawing, in the order of their first pieces, and which one each piece belongs to."""
    members: dict[tuple[object, ...], list[int]] = {}
    for index, piece in enumerate(drawing.pieces):
        _check_piece(piece, index, drawing, table)
        category = _category(piece, table)
        if category is None:
            key = ()
        elif not category.isthing:
            key = (category.id,)
        elif piece.group is None:
            key = (category.id, index)
        else:
            key = (category.id, piece.category, piece.group, piece.crowd)
        members.setdefault(key, []).append(index)
    owners, owner_of = [], [0] * len(drawing.pieces)
    for row, indices in enumerate(members.values()):
        pieces = [drawing.pieces[index] for index in indices]
        category = _category(pieces[0], table)
        crowd = category is not None and category.isthing and pieces[0].crowd
        mask, _ = unite([(piece.mask, piece.corner) for piece in pieces])
        owners.append(_Owner(category, crowd, tuple(indices), int(np.count_nonzero(mask))))
        for index in indices:
            owner_of[index] = row
    return owners, owner_of


def _check_piece(piece: Piece, index: int, drawing: Drawing, table: Mapping[str, Category | None]) -> None:
    (top, left), (height, width) = piece.corner, piece.mask.shape
    if top < 0 or left < 0 or top + height > drawing.size[0] or left + width > drawing.size[1]:
        raise InputError(
            f"{_describe(index, drawing)} reaches to row {top + height} and column "
            f"{left + width} of a picture of {drawing.size[1]} x {drawing.size[0]} pixels (width x height); "
            "is it drawn on another picture?"
        )
    if piece.category is not None and piece.category not in table:
        raise InputError(f"{_describe(index, drawing)} is of no listed category; add its name")


def _category(piece: Piece, table: Mapping[str, Category | None]) -> Category | None:
    return None if piece.category is None else table[piece.category]


def _painting_order(owners: list[_Owner], owner_of: list[int], overlap: Overlap) -> list[int]:
    """Pieces so that whoever is to keep a pixel comes last."""
    indices = list(range(len(owner_of)))
    match overlap:
        case "skip":
            return indices[::-1]
        case "smaller-on-top":
            return sorted(indices, key=lambda index: (-owners[owner_of[index]].area, index))
        case "by-order":
            order = [0 if owner.category is None else owner.category.id for owner in owners]
            return sorted(indices, key=lambda index: (-order[owner_of[index]], index))
        case "last-wins" | "error":
            return indices


def _check_free(covered: np.ndarray, row: int, index: int, owners: list[_Owner], drawing: Drawing) -> None:
    counts = np.bincount(covered, minlength=row + 1)
    counts[[0, row]] = 0
    if counts.any():
        other = int(counts.argmax())
        own, covered_one = (_describe(piece, drawing) for piece in (index, owners[other - 1].pieces[0]))
        place = "".join(own.rpartition(": ")[:2])
        raise InputError(
            f"{own} covers {counts[other]} pixels of {covered_one.removeprefix(place)}; say who keeps them: "
            "--overlap smaller-on-top, last-wins, by-order or skip"
        )


def _describe(index: int, drawing: Drawing) -> str:
    """A shape by its place in the file that it was read from, else by its number."""
    piece = drawing.pieces[index]
    if piece.where is not None:
        return piece.where
    group = "" if piece.group is None else f" of group {piece.group}"
    return f"{drawing.image}: shape {index + 1} ({'void' if piece.category is None else repr(piece.category)}{group})"


def _finish(rows: np.ndarray, owners: list[_Owner]) -> Painting:
    located = locate_segments(rows, list(range(1, len(owners) + 1)))
    ids = np.zeros(len(owners) + 1, dtype=np.int32)
    segments: list[Segment] = []
    lost = hidden = empty = 0
    for row, (owner, area, box) in enumerate(zip(owners, located.areas.tolist(), located.boxes.tolist(), strict=True)):
        if owner.category is None:
            continue
        lost += owner.area - area
        empty += owner.area == 0
        hidden += owner.area > 0 and area == 0
        if area == 0:
            continue
        ids[row + 1] = len(segments) + 1
        segments.append(annotated_segment(len(segments) + 1, owner.category, area, box, crowd=owner.crowd))
    return Painting(Panoptic(ids[rows], tuple(segments)), lost, hidden, empty)
