from collections import Counter

import pytest

from thingstuff.data.drawn.splitting import SplitChoice, assign_splits, split_name
from thingstuff.errors import InputError

NAMES = [f"{number}.jpg" for number in range(400)]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("val2017", "val"),
        ("train2014", "train"),
        ("test", "test"),
        ("default", None),
        ("", None),
        ("train_extra", "train_extra"),
        ("fold 1", "fold_1"),
    ],
)
def test_words_for_splits(word: str, name: str | None):
    assert split_name(word) == name


def test_without_choice_the_source_decides():
    assert assign_splits(list("abcd"), ["valid", None, "train2017", "default"], SplitChoice()) == [
        "val", "train", "train", "train"
    ]  # fmt: skip


def test_a_name_or_a_share_replaces_what_the_source_says():
    assert assign_splits(["a", "b"], ["val", None], SplitChoice(name="test")) == ["test", "test"]
    assert set(assign_splits(NAMES, ["test"] * 400, SplitChoice(val_share=0.5))) == {"train", "val"}


def test_the_share_is_met_and_depends_on_names_and_seed_alone():
    splits = assign_splits(NAMES, [None] * 400, SplitChoice(val_share=0.2))
    # 80 are expected, with a standard deviation of 8.
    assert 56 < Counter(splits)["val"] < 104
    by_name = dict(zip(NAMES, splits, strict=True))
    some = NAMES[::-3]
    assert assign_splits(some, [None] * len(some), SplitChoice(val_share=0.2)) == [by_name[name] for name in some]
    assert assign_splits(NAMES, [None] * 400, SplitChoice(val_share=0.2, seed=1)) != splits
    # A larger share keeps who was in val.
    larger = assign_splits(NAMES, [None] * 400, SplitChoice(val_share=0.4))
    assert all(after == "val" for before, after in zip(splits, larger, strict=True) if before == "val")


@pytest.mark.parametrize("share", [0.001, 0.999])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_no_split_stays_empty(count: int, share: float):
    assert set(assign_splits(NAMES[:count], [None] * count, SplitChoice(val_share=share))) == {"train", "val"}


def test_one_picture_and_none():
    assert len(assign_splits(["a"], [None], SplitChoice(val_share=0.2))) == 1
    assert assign_splits([], [], SplitChoice(val_share=0.2)) == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": "../up"}, "--split '../up'"),
        ({"name": ""}, "--split ''"),
        ({"val_share": 0.0}, "--val-share 0.0"),
        ({"val_share": 20.0}, "--val-share 20.0"),
        ({"val_share": float("nan")}, "--val-share nan"),
        ({"name": "train", "val_share": 0.5}, "exclude each other"),
    ],
)
def test_wrong_choices(changes: dict, part: str):
    with pytest.raises(InputError) as caught:
        SplitChoice(**changes)
    assert part in str(caught.value)
