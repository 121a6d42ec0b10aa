"""Drawings: what each pixel shows, where names stand, and that odd pictures and crowded maps work."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thingstuff import viz, viz_names
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import Panoptic, Segment

LABELS = LabelSet(
    (
        Category(3, "sky", isthing=False, color=(70, 130, 180)),
        Category(7, "road", isthing=False, color=(128, 64, 128)),
        Category(1, "car", isthing=True, color=(0, 0, 142)),
        Category(2, "person", isthing=True, color=(220, 20, 60)),
    )
)
BY_ID = {category.id: category for category in LABELS.categories}


def panoptic(ids, categories: dict[int, int], score: float | None = None) -> Panoptic:
    ids = np.array(ids, dtype=np.int32)
    segments = tuple(
        Segment(i, c, BY_ID[c].name, BY_ID[c].isthing, score, int((ids == i).sum()), (0, 0, 1, 1))
        for i, c in sorted(categories.items())
    )
    return Panoptic(ids, segments)


def checkerboard(rows: int, columns: int, cell: int, category: int) -> Panoptic:
    """Every cell a segment of its own."""
    ids = (np.arange(rows * columns).reshape(rows, columns) + 1).repeat(cell, 0).repeat(cell, 1)
    return panoptic(ids, dict.fromkeys(range(1, rows * columns + 1), category), 0.9)


def grey(height: int, width: int, value: int = 100):
    return np.full((height, width, 3), value, np.uint8)


def halves(height: int = 40, width: int = 60) -> Panoptic:
    ids = np.zeros((height, width), np.int32)
    ids[:, width // 3 : 2 * width // 3] = 5
    ids[:, 2 * width // 3 :] = 9
    return panoptic(ids, {5: 3, 9: 1})


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch):
    """Records text and box of every name written."""
    written = []
    write = viz_names.Tags.write

    def record(self, text, font, box):
        written.append((text, tuple(box.tolist()), self.size))
        write(self, text, font, box)

    monkeypatch.setattr(viz_names.Tags, "write", record)
    return written


def test_stuff_is_a_blend_of_its_class_colour_and_void_is_dimmed():
    drawing = np.asarray(viz.draw_panoptic(grey(40, 60), halves(), LABELS, names=False, opacity=0.5, enlarge_to=0))
    assert drawing.shape == (40, 60, 3)
    np.testing.assert_array_equal(drawing[20, 30], [85, 115, 140])  # (100 + 70, 130, 180) / 2
    # 0.65 of the picture's 100 and 0.35 of the dark (24, 26, 32).
    np.testing.assert_array_equal(drawing[20, 5], [73, 74, 76])


def test_opacity_zero_leaves_the_picture_inside_segments_and_one_hides_it():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    inside = np.s_[2:38, 22:38]
    clear = np.asarray(viz.draw_panoptic(image, halves(), LABELS, names=False, opacity=0.0, enlarge_to=0))
    np.testing.assert_array_equal(clear[inside], image[inside])
    solid = np.asarray(viz.draw_panoptic(image, halves(), LABELS, names=False, opacity=1.0, enlarge_to=0))
    assert (solid[inside] == BY_ID[3].color).all()


def test_edges_lie_on_both_sides_of_a_change_but_not_on_void():
    drawing = np.asarray(viz.draw_ids(halves(), LABELS, enlarge_to=0)).astype(int)
    row = drawing[20]
    plain_stuff, plain_thing = row[30], row[50]
    different = [
        x for x in range(60) if not any((row[x] == plain).all() for plain in (row[5], plain_stuff, plain_thing))
    ]
    assert different == [20, 39, 40]
    assert row[39].sum() < plain_stuff.sum()  # stuff: dark edge
    assert row[40].sum() > plain_thing.sum()  # thing: light edge
    assert row[5].sum() < 100  # void: dark


def test_thing_colour_stays_near_its_class_and_depends_on_the_map_alone():
    first, again = (np.asarray(viz.draw_ids(halves(), LABELS, enlarge_to=0)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    mixed = first[20, 50].astype(int)
    pure = np.array(BY_ID[1].color)
    assert 0 < np.abs(mixed - pure).max() <= round(viz._TINT * 255)


def test_touching_instances_of_a_class_never_share_a_colour():
    picture = np.asarray(viz.draw_ids(checkerboard(9, 9, 8, category=2), LABELS, enlarge_to=0))
    centres = picture[4::8, 4::8].astype(int)
    assert (centres[:, 1:] != centres[:, :-1]).any(axis=-1).all()
    assert (centres[1:] != centres[:-1]).any(axis=-1).all()
    assert len(np.unique(centres.reshape(-1, 3), axis=0)) == viz._VARIANTS


def test_instances_apart_by_a_thin_gap_differ_too():
    for other in range(2, 40):
        ids = np.zeros((48, 101), np.int32)
        ids[:, :50], ids[:, 51:] = 1, other
        drawing = np.asarray(viz.draw_ids(panoptic(ids, {1: 2, other: 2}), LABELS, enlarge_to=0))
        assert (drawing[24, 20] != drawing[24, 80]).any()


@pytest.mark.parametrize(
    ("size", "expected"), [((128, 192), 3), ((480, 300), 1), ((479, 479), 2), ((1, 1), 480), ((300, 20000), 1)]
)
def test_enlargement_is_the_smallest_whole_factor_that_reaches_the_length(size, expected):
    assert viz._enlargement(size, 480) == expected
    assert viz._enlargement(size, 0) == 1


def test_small_pictures_are_enlarged_with_blocky_maps():
    drawing = np.asarray(viz.draw_ids(panoptic([[1, 0], [0, 1]], {1: 3}), LABELS, enlarge_to=8))
    assert drawing.shape == (8, 8, 3)
    assert (drawing[:3, :3] == BY_ID[3].color).all()
    assert (drawing[:4, 4:] == drawing[0, 7]).all()


def test_names_are_written_with_the_score_of_things(tags):
    ids = np.full((300, 600), 1, np.int32)
    ids[:, 300:] = 2
    segments = (
        Segment(1, 3, "sky", False, None, 90000, (0, 0, 300, 300)),
        Segment(2, 1, "car", True, 0.874, 90000, (300, 0, 300, 300)),
    )
    viz.draw_panoptic(grey(300, 600), Panoptic(ids, segments), LABELS)
    assert sorted(text for text, _, _ in tags) == ["car 87%", "sky"]
    # The thickest place of a half is its middle.
    middles = {text: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for text, box, _ in tags}
    assert middles["sky"] == pytest.approx((150, 150), abs=4)
    assert middles["car 87%"] == pytest.approx((450, 150), abs=4)


def test_a_name_stands_in_the_thickest_part_of_its_segment(tags):
    ids = np.zeros((400, 400), np.int32)
    ids[195:205, :] = 1  # a thin bar
    ids[120:280, 230:390] = 1  # with a thick end
    viz.draw_panoptic(grey(400, 400), panoptic(ids, {1: 7}), LABELS, enlarge_to=0)
    ((_, (left, top, right, bottom), _),) = tags
    assert (ids[top:bottom, left:right] == 1).mean() > 0.9


def test_no_name_on_segments_too_small_for_it(tags):
    ids = np.zeros((400, 400), np.int32)
    ids[100:106, 100:300] = 1
    ids[200:205, 200:205] = 2
    viz.draw_panoptic(grey(400, 400), panoptic(ids, {1: 7, 2: 1}), LABELS)
    assert tags == []


def test_names_false_writes_nothing(tags):
    viz.draw_panoptic(grey(300, 600), halves(300, 600), LABELS, names=False)
    assert tags == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 300), width=st.integers(1, 300), count=st.integers(0, 40))
def test_any_map_is_drawn_and_names_lie_inside_and_apart(seed, height, width, count):
    rng = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.int32)
    for identity in range(1, count + 1):
        y, x = rng.integers(0, height), rng.integers(0, width)
        ids[y : y + rng.integers(1, 120), x : x + rng.integers(1, 200)] = identity
    categories = {i: int(rng.choice([1, 2, 3, 7])) for i in range(1, count + 1)}
    written = []
    with pytest.MonkeyPatch.context() as patch:
        write = viz_names.Tags.write
        patch.setattr(
            viz_names.Tags, "write", lambda s, t, f, box: (written.append(box.tolist()), write(s, t, f, box))[0]
        )
        picture = viz.draw_panoptic(grey(height, width), panoptic(ids, categories, 0.5), LABELS)
    for left, top, right, bottom in written:
        assert 0 <= left < right <= picture.width
        assert 0 <= top < bottom <= picture.height
    for a, b in combinations(written, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (30, 4000), (2, 2)])
@pytest.mark.parametrize("filled", [False, True])
def test_odd_sizes(size, filled):
    ids = np.full(size, 4 if filled else 0, np.int32)
    drawing = viz.draw_panoptic(grey(*size), panoptic(ids, {4: 1} if filled else {}), LABELS)
    assert max(drawing.size) >= 480
    assert drawing.width * size[0] == drawing.height * size[1]
    assert viz.draw_ids(panoptic(ids, {4: 1} if filled else {}), LABELS).size == drawing.size


def test_segments_without_pixels_are_passed_over():
    empty = panoptic(np.zeros((20, 20)), {1: 1, 8: 3})
    assert viz.draw_panoptic(grey(20, 20), empty, LABELS).size == (480, 480)


@pytest.mark.parametrize(("rows", "columns", "cell"), [(6, 10, 100), (20, 25, 40)])
def test_many_segments_are_drawn(rows, columns, cell):
    board = checkerboard(rows, columns, cell, category=2)
    drawn = np.asarray(viz.draw_panoptic(grey(*board.ids.shape), board, LABELS, names=False))
    middles = drawn[cell // 2 :: cell, cell // 2 :: cell].reshape(-1, 3)
    assert len(middles) == rows * columns
    assert not (middles == 128).all(axis=1).any()  # no segment was left grey


def test_wrong_input_is_named():
    with pytest.raises(InputError, match=r"60 x 40, its picture 50 x 40"):
        viz.draw_panoptic(grey(40, 50), halves(), LABELS)
    with pytest.raises(InputError, match=r"pixels of id 6, which is in none of its segments"):
        viz.draw_ids(panoptic([[1, 6]], {1: 3}), LABELS)
    strange = Panoptic(np.ones((2, 2), np.int32), (Segment(1, 99, "x", True, None, 4, (0, 0, 2, 2)),))
    with pytest.raises(InputError, match=r"category id 99 is not in the label set"):
        viz.draw_ids(strange, LABELS)


# --- instances ---


def instances(*boxes):
    count = len(boxes)
    array = np.array(boxes, dtype=np.float32).reshape(count, 4)
    return array, np.linspace(0.9, 0.5, count, dtype=np.float32), np.ones(count, dtype=np.int64)


def test_instances_without_masks_are_boxes_only():
    drawing = np.asarray(
        viz.draw_instances(grey(100, 100), *instances([10, 20, 60.5, 70]), None, LABELS, names=False, enlarge_to=0)
    )
    changed = (drawing != 100).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # Pixel 60 holds the right side at 60.5; the lower side at 70 is the last of pixel 69.
    assert (columns[0], rows[0], columns[-1], rows[-1]) == (10, 20, 60, 69)
    assert not changed[25:65, 15:55].any()


def test_the_surer_of_two_overlapping_instances_is_painted_last():
    masks = np.zeros((2, 100, 100), bool)
    masks[0, 30:70, 30:70] = masks[1, 10:90, 10:90] = True
    boxes, scores, ids = instances([30, 30, 70, 70], [10, 10, 90, 90])
    drawing = viz.draw_instances(
        grey(100, 100), boxes, scores, ids, masks, LABELS, names=False, opacity=1.0, enlarge_to=0
    )
    colours = [viz._variant(BY_ID[1].color, rank) for rank in range(2)]
    assert drawing.getpixel((50, 50)) == colours[0]
    assert drawing.getpixel((20, 20)) == colours[1]
    assert drawing.getpixel((5, 5)) == (100, 100, 100)


def test_instances_are_enlarged_with_their_boxes_and_named(tags):
    masks = np.zeros((1, 50, 50), bool)
    masks[0, 20:40, 10:30] = True
    drawing = viz.draw_instances(grey(50, 50), *instances([10, 20, 30, 40]), masks, LABELS, enlarge_to=200)
    assert drawing.size == (200, 200)
    assert drawing.getpixel((80, 120)) != (100, 100, 100)
    assert drawing.getpixel((30, 120)) == (100, 100, 100)
    ((text, (left, _, _, bottom), _),) = tags
    assert (text, left, bottom) == ("car 90%", 40, 80)  # On the upper left corner of the box.


def test_instances_of_nothing_and_with_an_empty_mask():
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    none = viz.draw_instances(image, *instances(), np.zeros((0, 30, 30), bool), LABELS, enlarge_to=0)
    np.testing.assert_array_equal(np.asarray(none), image)
    empty = viz.draw_instances(image, *instances([3, 3, 3, 3]), np.zeros((1, 30, 30), bool), LABELS, enlarge_to=0)
    assert empty.size == (30, 30)
    with pytest.raises(InputError, match="category id 55"):
        viz.draw_instances(image, *instances([3, 3, 9, 9])[:2], np.array([55]), None, LABELS)


# --- rows of pictures ---


def test_side_by_side_brings_all_to_one_height_under_a_header():
    left, right = Image.new("RGB", (300, 200), (255, 0, 0)), Image.new("RGB", (100, 100), (0, 0, 255))
    row = viz.side_by_side([left, right], ["picture", "a title that is much too long for a narrow picture"])
    assert row.height > 200
    assert row.width > 300 + 200
    header = row.height - 200
    assert row.getpixel((0, header)) == row.getpixel((299, row.height - 1)) == (255, 0, 0)
    assert row.getpixel((row.width - 200, header)) == row.getpixel((row.width - 1, row.height - 1)) == (0, 0, 255)
    band = np.asarray(row)[:header]
    assert (band[:, :100] < 100).any()
    assert (band[:, 300 : row.width - 200] == 255).all()  # No title runs into the gap.


def test_side_by_side_wants_a_title_for_each_picture():
    for pictures, titles in (([], []), ([Image.new("RGB", (4, 4))], ["a", "b"])):
        with pytest.raises(InputError, match=f"{len(pictures)} pictures and {len(titles)} titles"):
            viz.side_by_side(pictures, titles)


# --- pictures of other kinds ---


def test_rgb_is_shown_as_it_is():
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    assert viz.as_photo(image) is image


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3), (12, 3)])
def test_other_channels_are_stretched_from_dark_to_bright(channels, shown):
    ramp = np.arange(10_000).reshape(100, 100, 1)
    image = np.concatenate([1000 + ramp * (channel + 1) for channel in range(channels)], axis=2).astype(np.uint16)
    photo = viz.as_photo(image)
    assert photo.shape == (100, 100, 3)
    assert photo.dtype == np.uint8
    # One in a hundred is black and one in a hundred white; the middle is grey, in every channel however strong.
    assert (photo[0, :95] == 0).all()
    assert (photo[-1, 5:] == 255).all()
    assert np.abs(photo[50, 0].astype(int) - 128).max() <= 1
    assert (shown == 1) <= bool((photo[..., :1] == photo).all())


def test_a_picture_of_one_value_is_black():
    assert (viz.as_photo(np.full((4, 4, 4), 900, dtype=np.uint16)) == 0).all()
