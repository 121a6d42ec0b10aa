import re
from pathlib import Path

import pytest

from thingstuff.check_table import check_text, mended_text, printable
from thingstuff.data.checking.check import CheckedData
from thingstuff.data.checking.kinds import Finding, Kind
from thingstuff.data.checking.mending import Change, Mended
from thingstuff.data.checking.records import ListedCategory
from thingstuff.data.checking.summary import ClassCount, ObjectSizes, SplitSummary

CATEGORIES = (
    ListedCategory(3, "road", False, None),
    ListedCategory(1, "person riding a very long bicycle", True, None),
    ListedCategory(2, "\x1b[31mred", None, None),
)


def split(name: str, objects: ObjectSizes) -> SplitSummary:
    classes = {3: ClassCount(118_287, 118_287, 0.5), 1: ClassCount(7, 1_270_000, 0.125), 2: ClassCount(0, 0, 0.0)}
    return SplitSummary(name, 118_287, 1_388_287, 0.25, 0.2, objects, classes)


def checked(*findings: Finding, splits: tuple[str, ...] = ("train", "val")) -> CheckedData:
    sizes = (ObjectSizes(1000, 200, 30, (4.4, 8.0, 20.6, 90.0, 300.2)), ObjectSizes(0, 0, 0, ()))
    summaries = tuple(split(name, sizes[position % 2]) for position, name in enumerate(splits))
    return CheckedData(Path("streets"), ("layout thingstuff: x",), CATEGORIES, summaries, (), findings)


def wrong_area(number: int) -> Finding:
    return Finding(
        Kind.WRONG_AREA, "val", f"panoptic_val/{number}.png", "the JSON file says 5, counted 2", 300 + number
    )


def test_classes_and_sizes():
    lines = check_text(checked()).splitlines()
    assert lines[0] == "layout thingstuff: x"
    assert lines[2].endswith("small  medium  large  side at 5 / 50 / 95 %")
    assert re.sub(" +", " ", lines[3]) == "train 118,287 1,388,287 25.0 % 1,000 200 30 4 / 21 / 300"
    assert lines[4].split()[-1] == "-"
    text = "\n".join(lines)
    assert "  0    road                 118,287    118,287  50.0   118,287    118,287  50.0" in text
    assert "person riding a v…" in text
    assert "stuff or things?" in text
    assert "\\x1b[31mred" in text
    assert "\x1b" not in text
    assert lines[-1] == "streets: no errors, no warnings, no notes"


def test_findings_are_grouped_and_the_worst_come_last():
    note = Finding(Kind.NO_THING, "val", "panoptic_val/9.png", "1 segments, all stuff")
    text = check_text(checked(*map(wrong_area, range(12)), note))
    group = text[text.index("error wrong-area") :].split("\n\n")[0].splitlines()
    assert group[0] == "error wrong-area (12): the area in the JSON file is not the number of pixels"
    assert group[1] == "  panoptic_val/0.png, segment 300: the JSON file says 5, counted 2"
    assert [line for line in group if line.startswith("  panoptic")] == [
        f"  panoptic_val/{n}.png, segment {300 + n}: the JSON file says 5, counted 2" for n in range(5)
    ]
    assert "  and 7 more" in group
    assert group[-1].endswith("check with --fix does it")
    assert text.index("note no-thing") < text.index("error wrong-area")
    assert text.endswith("streets: 12 errors, no warnings, 1 note")


@pytest.mark.parametrize("names", [(), ("train",), ("train", "val"), ("train", "val", "test")])
def test_it_fits_into_80_columns_even_with_the_counts_of_coco(names):
    long = Finding(Kind.SPLIT_LEAK, "val", "images/" + "ab " * 20, "like train: " + "images/c.png " * 12, picture="x")
    text = check_text(checked(long, wrong_area(1), splits=names))
    assert max(map(len, text.splitlines())) <= 80


def test_names_that_are_no_text():
    assert printable("a\udc80\tb\x1b[0m é") == "a\\udc80\\tb\\x1b[0m é"
    finding = Finding(Kind.DAMAGED_PICTURE, "val", "images/\udc80.jpg", "cut\nshort", picture="\udc80.jpg")
    check_text(checked(finding)).encode()


def test_repairs():
    changes = [Change("area recounted", f"panoptic_val/{n}.png", 300, "5, now 2") for n in range(7)]
    changes.append(Change("id renumbered", "panoptic_val/0.png", 0, "0 means void, now 1"))
    text = mended_text(Mended(tuple(changes), (Path("streets/panoptic_val.json.bak"),)))
    assert text.splitlines()[:2] == ["repaired: area recounted (7)", "  panoptic_val/0.png, segment 300: 5, now 2"]
    assert "  and 2 more" in text
    assert "repaired: id renumbered (1)" in text
    assert text.endswith("  original kept: streets/panoptic_val.json.bak")
    assert mended_text(Mended((), ())) == "repaired: nothing; what is wrong needs a decision"
