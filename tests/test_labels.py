"""Class order, colours, and clear words for wrong categories."""

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thingstuff.errors import InputError
from thingstuff.labels import MAX_CATEGORIES, Category, LabelSet, default_color, find_difference

CAR = {"id": 7, "name": "car", "isthing": 1, "color": [0, 0, 142]}
ROAD = {"id": 9, "name": "road", "isthing": 0, "color": [128, 64, 128]}
SKY = {"id": 3, "name": "sky", "isthing": 0, "color": [70, 130, 180]}
CAT = {"id": 2, "name": "cat", "isthing": 1, "color": [1, 2, 3]}


def test_stuff_by_id_then_things_by_id() -> None:
    labels = LabelSet.from_coco([CAR, ROAD, SKY, CAT], "x.json")
    assert [category.name for category in labels.categories] == ["sky", "road", "cat", "car"]
    assert labels.category_ids.tolist() == [3, 9, 2, 7]
    assert labels.category_ids.dtype == np.int64
    assert labels.index == {3: 0, 9: 1, 2: 2, 7: 3}
    assert (len(labels), labels.num_stuff, labels.num_things) == (4, 2, 2)
    assert labels.categories[3] == Category(7, "car", True, (0, 0, 142))


@pytest.mark.parametrize(("categories", "counts"), [([CAR, CAT], (0, 2)), ([SKY], (1, 0))])
def test_one_kind_alone(categories: list[dict], counts: tuple[int, int]) -> None:
    labels = LabelSet.from_coco(categories, "x.json")
    assert (labels.num_stuff, labels.num_things) == counts


def test_coco_form_is_by_id_and_says_everything() -> None:
    written = LabelSet.from_coco([CAR, ROAD], "x.json").to_coco()
    assert written == [{**CAR, "supercategory": "car"}, {**ROAD, "supercategory": "road"}]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 10**6), st.tuples(st.text(min_size=1), st.booleans()), min_size=1, max_size=9
    ).filter(lambda categories: len({name for name, _ in categories.values()}) == len(categories))
)
def test_coco_form_round_trip(categories: dict[int, tuple[str, bool]]) -> None:
    read = [{"id": key, "name": name, "isthing": int(isthing)} for key, (name, isthing) in categories.items()]
    labels = LabelSet.from_coco(read, "x.json")
    assert LabelSet.from_coco(labels.to_coco(), "again") == labels
    kinds = [category.isthing for category in labels.categories]
    assert kinds == sorted(kinds)
    assert [labels.index[identity] for identity in labels.category_ids.tolist()] == list(range(len(labels)))


@pytest.mark.parametrize("isthing", [True, 1, False, 0])
def test_isthing_may_be_a_number_or_a_truth_value(isthing: bool | int) -> None:
    labels = LabelSet.from_coco([{**CAR, "isthing": isthing}], "x.json")
    assert labels.categories[0].isthing is bool(isthing)


@pytest.mark.parametrize("color", [5, [1, 2], [1, 2, 300], "red", [1.5, 2, 3]])
def test_wrong_colors(color: object) -> None:
    with pytest.raises(InputError, match=r"color is .*, not three numbers from 0 to 255"):
        LabelSet.from_coco([CAT | {"color": color}], "labels")


def test_missing_colors_are_chosen_and_differ() -> None:
    without = [{"id": i, "name": f"class {i}", "isthing": 1} for i in range(60)]
    labels = LabelSet.from_coco(without, "x.json")
    assert labels.categories[5].color == default_color(5)
    assert len({category.color for category in labels.categories}) == 60


def test_default_colors_of_neighbours_differ_plainly() -> None:
    colors = np.array([default_color(position) for position in range(MAX_CATEGORIES)])
    assert colors.min() >= 0
    assert colors.max() <= 255
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 60


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], r"x.json: 'categories' is empty; list every class"),
        (["car"], r"x.json: categories\[0\] is 'car', not an object with id, name and isthing"),
        ([SKY, {"id": 1, "name": "car"}], r"categories\[1\] \('car'\) lacks 'isthing'; 1 for countable things, 0 for"),
        ([{"name": "car", "isthing": 1}], r"categories\[0\] \('car'\) lacks 'id'$"),
        ([{"id": 1, "isthing": 1}], r"categories\[0\] \('unnamed'\) lacks 'name'$"),
        ([{**CAR, "id": "7"}], r"categories\[0\]: id is '7', not a whole number from 0"),
        ([{**CAR, "id": -1}], r"id is -1, not a whole number from 0"),
        ([{**CAR, "id": True}], r"id is True, not a whole number from 0"),
        ([{**CAR, "id": 1.5}], r"id is 1.5, not a whole number"),
        ([{**CAR, "name": ""}], r"name is '', not a text"),
        ([{**CAR, "name": 5}], r"name is 5, not a text"),
        ([{**CAR, "isthing": 2}], r"\('car'\): isthing is 2; write 1 for countable things, 0 for stuff"),
        ([{**CAR, "isthing": "yes"}], r"isthing is 'yes'; write 1"),
        ([{**CAR, "color": [1, 2]}], r"color is \[1, 2\], not three numbers from 0 to 255"),
        ([{**CAR, "color": [1, 2, 256]}], r"color is \[1, 2, 256\], not three numbers"),
        ([{**CAR, "color": [1, 2, 0.5]}], r"color is \[1, 2, 0.5\], not three numbers"),
        ([CAR, {**CAT, "id": 7}], r"x.json: two categories have the id 7; give each its own"),
        ([CAR, {**CAT, "name": "car"}], r"x.json: two categories have the name 'car'; give each its own"),
    ],
)
def test_wrong_categories_are_refused_in_one_line(
    categories: list, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files hold anything; the checks of types, which only tests have, would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=message) as caught:
        LabelSet.from_coco(categories, "x.json")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.json: ")


def test_as_many_categories_as_label_maps_hold() -> None:
    categories = [{"id": i, "name": f"class {i}", "isthing": 0} for i in range(MAX_CATEGORIES + 1)]
    assert len(LabelSet.from_coco(categories[:-1], "x.json")) == 255
    with pytest.raises(InputError, match=r"x.json: 256 categories, at most 255 can be told apart; merge rare ones"):
        LabelSet.from_coco(categories, "x.json")


def test_the_first_difference_of_two_sets() -> None:
    def labels(*rows: tuple[int, str, int]) -> LabelSet:
        listed = [{"id": number, "name": name, "isthing": thing} for number, name, thing in rows]
        return LabelSet.from_coco(listed, "x")

    one = labels((1, "road", 0), (2, "car", 1))
    assert find_difference(one, one) is None
    assert find_difference(one, labels((2, "car", 1), (1, "road", 0))) is None
    assert find_difference(one, labels((1, "road", 0), (2, "car", 0))) == (2, "'car' (thing)", "'car' (stuff)")
    assert find_difference(one, labels((2, "car", 1))) == (1, "'road' (stuff)", "absent")
