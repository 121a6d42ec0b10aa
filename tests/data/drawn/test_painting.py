from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thingstuff.data.drawn.drawing import Drawing, Piece
from thingstuff.data.drawn.painting import Overlap, paint
from thingstuff.errors import InputError
from thingstuff.labels import Category

SIZE = (6, 7)
CAR, ROAD, PERSON, SKY = (
    Category(number, name, thing, (0, 0, 0))
    for number, name, thing in ((1, "car", True), (2, "road", False), (3, "person", True), (4, "sky", False))
)
TABLE = {"car": CAR, "van": CAR, "road": ROAD, "person": PERSON, "sky": SKY, "ignored": None}
POLICIES: tuple[Overlap, ...] = get_args(Overlap)


def block(name: str | None, rows: slice, columns: slice, group: int | None = None, crowd: bool = False) -> Piece:
    mask = np.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
    return Piece(name, mask, (rows.start, columns.start), group, crowd)


def drawing(*pieces: Piece) -> Drawing:
    return Drawing(Path("street.jpg"), SIZE, pieces)


# --- by hand ---

BELOW, ABOVE = block("road", slice(0, 4), slice(0, 6)), block("car", slice(1, 3), slice(1, 4))


def test_pieces_apart_are_painted_under_every_policy():
    left, right = block("car", slice(0, 2), slice(0, 2)), block("road", slice(0, 2), slice(2, 5))
    for policy in POLICIES:
        painting = paint(drawing(left, right), TABLE, policy)
        expected = np.zeros(SIZE, dtype=np.int32)
        expected[:2, :2], expected[:2, 2:5] = 1, 2
        np.testing.assert_array_equal(painting.panoptic.ids, expected)
        assert (painting.lost_pixels, painting.hidden, painting.empty) == (0, 0, 0)
        car, road = painting.panoptic.segments
        assert (car.id, car.category_id, car.name, car.isthing, car.area, car.bbox) == (
            1,
            1,
            "car",
            True,
            4,
            (0, 0, 2, 2),
        )
        assert (road.id, road.category_id, road.isthing, road.area, road.bbox) == (2, 2, False, 6, (2, 0, 3, 2))
        assert car.score is None


def test_an_error_names_both_objects_and_the_pixels():
    with pytest.raises(InputError) as caught:
        paint(drawing(BELOW, ABOVE), TABLE, "error")
    assert str(caught.value).startswith(
        "street.jpg: shape 2 ('car') covers 6 pixels of shape 1 ('road'); say who keeps them: --overlap smaller-on-top"
    )


def test_of_several_covered_objects_the_one_that_loses_most_is_named():
    cars = [block("car", slice(0, 1), slice(0, 3)), block("car", slice(0, 1), slice(3, 4))]
    above = drawing(*cars, block("person", slice(0, 1), slice(0, 4), 8))
    with pytest.raises(InputError, match=r"shape 3 \('person' of group 8\) covers 3 pixels of shape 1 \('car'\)"):
        paint(above, TABLE, "error")


def test_the_first_or_the_last_keeps_the_pixels():
    last = paint(drawing(BELOW, ABOVE), TABLE, "last-wins")
    assert [segment.area for segment in last.panoptic.segments] == [24 - 6, 6]
    assert last.lost_pixels == 6
    skip = paint(drawing(BELOW, ABOVE), TABLE, "skip")
    assert [segment.name for segment in skip.panoptic.segments] == ["road"]
    assert (skip.lost_pixels, skip.hidden) == (6, 1)
    # A later piece keeps what is free.
    skip = paint(drawing(ABOVE, BELOW), TABLE, "skip")
    assert [(segment.name, segment.area) for segment in skip.panoptic.segments] == [("car", 6), ("road", 18)]


def test_smaller_on_top_counts_all_pieces_of_a_segment():
    # The car's second part makes it larger than the person, though the part in question is smaller.
    parts = [block("car", slice(0, 1), slice(0, 2), 5), block("car", slice(3, 6), slice(0, 6), 5)]
    person = block("person", slice(0, 2), slice(1, 5))
    for order in ([*parts, person], [person, *parts]):
        painting = paint(drawing(*order), TABLE, "smaller-on-top")
        assert {segment.name: segment.area for segment in painting.panoptic.segments} == {"car": 19, "person": 8}
    alone = paint(drawing(parts[0], person), TABLE, "smaller-on-top")
    assert {segment.name: segment.area for segment in alone.panoptic.segments} == {"car": 2, "person": 7}


def test_equally_large_segments_go_by_the_drawing():
    one, two = block("car", slice(0, 1), slice(0, 3)), block("person", slice(0, 1), slice(1, 4))
    painting = paint(drawing(one, two), TABLE, "smaller-on-top")
    assert {segment.name: segment.area for segment in painting.panoptic.segments} == {"car": 1, "person": 3}


def test_by_order_the_first_category_is_on_top_and_void_before_all():
    painting = paint(drawing(ABOVE, BELOW), TABLE, "by-order")  # the car's id is lower
    assert {segment.name: segment.area for segment in painting.panoptic.segments} == {"car": 6, "road": 18}
    void = block(None, slice(1, 2), slice(0, 7))
    painting = paint(drawing(void, ABOVE, BELOW), TABLE, "by-order")
    assert {segment.name: segment.area for segment in painting.panoptic.segments} == {"car": 3, "road": 15}


def test_parts_of_one_group_are_one_segment_and_groups_of_two_categories_are_two():
    pieces = [
        block("car", slice(0, 1), slice(0, 2), 1),
        block("car", slice(2, 3), slice(0, 2), 1),
        block("person", slice(4, 5), slice(0, 2), 1),
        block("car", slice(0, 1), slice(3, 5), 2),
        block("van", slice(2, 3), slice(3, 5), 1),  # becomes a car, but is another object
        block("car", slice(4, 5), slice(4, 5)),
        block("car", slice(4, 5), slice(6, 7)),
    ]
    painting = paint(drawing(*pieces), TABLE, "error")
    assert [(s.name, s.area) for s in painting.panoptic.segments] == [
        ("car", 4), ("person", 2), ("car", 2), ("car", 2), ("car", 1), ("car", 1)
    ]  # fmt: skip
    assert painting.panoptic.segments[0].bbox == (0, 0, 2, 3)


def test_parts_of_one_object_may_overlap():
    pieces = [block("car", slice(0, 2), slice(0, 3), 1), block("car", slice(1, 3), slice(0, 3), 1)]
    painting = paint(drawing(*pieces), TABLE, "error")
    assert painting.panoptic.segments[0].area == 9
    assert painting.lost_pixels == 0


def test_stuff_is_one_segment_whatever_its_groups_and_never_a_crowd():
    pieces = [block("road", slice(0, 2), slice(0, 3), 1), block("road", slice(1, 3), slice(0, 3), 2, crowd=True)]
    (road,) = paint(drawing(*pieces), TABLE, "error").panoptic.segments
    assert (road.area, road.iscrowd) == (9, False)


def test_crowds_are_kept_apart():
    pieces = [block("car", slice(0, 1), slice(0, 3), 1), block("car", slice(1, 2), slice(0, 3), 1, crowd=True)]
    assert [segment.iscrowd for segment in paint(drawing(*pieces), TABLE, "error").panoptic.segments] == [False, True]


def test_void_is_painted_0_and_ignored_names_are_void():
    for name in (None, "ignored"):
        painting = paint(drawing(BELOW, block(name, slice(0, 1), slice(0, 7))), TABLE, "last-wins")
        assert not painting.panoptic.ids[0].any()
        assert [segment.area for segment in painting.panoptic.segments] == [18]
        assert painting.lost_pixels == 6


def test_no_piece_and_pieces_without_pixels():
    painting = paint(drawing(), TABLE, "error")
    assert not painting.panoptic.ids.any()
    assert painting.panoptic.segments == ()
    thin = Piece("car", np.zeros((0, 0), dtype=bool), (0, 0))
    painting = paint(drawing(thin, ABOVE, Piece("sky", np.zeros((2, 2), dtype=bool), (0, 0))), TABLE, "error")
    assert [segment.id for segment in painting.panoptic.segments] == [1]
    assert (painting.empty, painting.hidden) == (2, 0)


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (5, 0), (0, 6)])
def test_a_piece_outside_of_the_picture_is_refused(corner: tuple[int, int]):
    piece = Piece("car", np.ones((2, 2), dtype=bool), corner)
    with pytest.raises(InputError, match=r"street.jpg: shape 2 \('car'\) reaches .* of a picture of 7 x 6"):
        paint(drawing(BELOW, piece), TABLE, "last-wins")


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match=r"street.jpg: shape 1 \('bus'\) is of no listed category"):
        paint(drawing(block("bus", slice(0, 1), slice(0, 1))), TABLE, "error")


# --- against a model that looks at one pixel at a time ---


DRAWN = st.lists(
    st.tuples(
        st.sampled_from([None, *TABLE]),
        *(st.integers(0, SIZE[axis]) for axis in (0, 1, 0, 1)),
        st.integers(0, 2 ** (SIZE[0] * SIZE[1]) - 1),
        st.sampled_from([None, None, 1, 2]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=7,
)
"""Name, edges of the box, pixels, group, crowd, whether all pixels are set."""


def draw_pieces(specifications: list[tuple]) -> Drawing:
    """Overlapping pieces with holes, in several parts, crowds, void and empty ones."""
    pieces = []
    for name, y1, x1, y2, x2, bits, group, crowd, solid in specifications:
        (top, bottom), (left, right) = sorted((y1, y2)), sorted((x1, x2))
        count = (bottom - top) * (right - left)
        mask = np.array([solid or bits >> position & 1 for position in range(count)], dtype=bool)
        pieces.append(Piece(name, mask.reshape(bottom - top, right - left), (top, left), group, crowd))
    return drawing(*pieces)


def covers(piece: Piece, row: int, column: int) -> bool:
    y, x = row - piece.corner[0], column - piece.corner[1]
    return 0 <= y < piece.mask.shape[0] and 0 <= x < piece.mask.shape[1] and bool(piece.mask[y, x])


def segment_of(index: int, pieces: tuple[Piece, ...]) -> tuple[object, ...]:
    """What makes two pieces the same segment."""
    piece = pieces[index]
    category = None if piece.category is None else TABLE[piece.category]
    if category is None:
        return ("void",)
    if not category.isthing:
        return ("stuff", category.name)
    if piece.group is None:
        return ("thing", index)
    return ("thing", piece.category, piece.group, piece.crowd)


def winner(
    on_pixel: list[int], policy: Overlap, segments: list[tuple[object, ...]], areas: dict, order: list[int]
) -> int:
    """The piece that owns a pixel."""
    match policy:
        case "skip":
            return min(on_pixel)
        case "smaller-on-top":
            return min(on_pixel, key=lambda index: (areas[segments[index]], -index))
        case "by-order":
            return min(on_pixel, key=lambda index: (order[index], -index))
        case _:
            return max(on_pixel)


@settings(max_examples=400, deadline=None)
@given(DRAWN, st.sampled_from(POLICIES))
def test_every_pixel_has_the_owner_of_the_model(specifications: list[tuple], policy: Overlap):
    drawn = draw_pieces(specifications)
    pieces = drawn.pieces
    segments = [segment_of(index, pieces) for index in range(len(pieces))]
    pixels = [(row, column) for row in range(SIZE[0]) for column in range(SIZE[1])]
    on_pixel = {pixel: [i for i, piece in enumerate(pieces) if covers(piece, *pixel)] for pixel in pixels}
    areas = {s: sum(any(segments[i] == s for i in on) for on in on_pixel.values()) for s in segments}
    categories = [None if piece.category is None else TABLE[piece.category] for piece in pieces]
    order = [0 if category is None else category.id for category in categories]
    conflict = any(len({segments[i] for i in on}) > 1 for on in on_pixel.values())
    if policy == "error" and conflict:
        with pytest.raises(InputError, match="say who keeps them"):
            paint(drawn, TABLE, policy)
        return
    painting = paint(drawn, TABLE, policy)
    expected = {p: segments[winner(on, policy, segments, areas, order)] for p, on in on_pixel.items() if on}
    labelled = {pixel: segment for pixel, segment in expected.items() if segment != ("void",)}

    # The same partition of the pixels, numbered by first piece.
    present = [s for s in dict.fromkeys(segments) if s in labelled.values()]
    ids = painting.panoptic.ids
    for pixel in pixels:
        assert ids[pixel] == (present.index(labelled[pixel]) + 1 if pixel in labelled else 0)
    assert [segment.id for segment in painting.panoptic.segments] == list(range(1, len(present) + 1))
    for segment, key in zip(painting.panoptic.segments, present, strict=True):
        first = segments.index(key)
        category = categories[first]
        assert category is not None
        own = [pixel for pixel, owner in labelled.items() if owner == key]
        rows, columns = [row for row, _ in own], [column for _, column in own]
        assert segment.area == len(own)
        assert segment.bbox == (
            *(min(columns), min(rows)),
            *(max(columns) - min(columns) + 1, max(rows) - min(rows) + 1),
        )
        assert (segment.category_id, segment.isthing) == (category.id, category.isthing)
        assert segment.iscrowd == (category.isthing and pieces[first].crowd)

    # What is reported as lost.
    drawn_segments = [s for s in areas if s != ("void",)]
    assert painting.lost_pixels == sum(areas[s] for s in drawn_segments) - len(labelled)
    assert painting.empty == sum(areas[s] == 0 for s in drawn_segments)
    assert painting.hidden == sum(areas[s] > 0 and s not in present for s in drawn_segments)
