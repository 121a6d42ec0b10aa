import math

import pytest
from PIL import Image

from thingstuff.data.drawn.lookup import (
    field,
    find_by_end,
    find_picture,
    find_without_suffix,
    finite,
    json_begins,
    picture_size,
    read_json,
    refuse_missing,
    whole,
)
from thingstuff.errors import InputError


def test_fields():
    record = {"text": "a", "number": 3, "flag": True, "half": 0.5}
    assert field(record, "text", str, "x") == "a"
    assert field(record, "number", (str, int), "x") == 3
    with pytest.raises(InputError, match=r"x: number is 3; expected a text$"):
        field(record, "number", str, "x")
    with pytest.raises(InputError, match=r"x: flag is True; expected a whole number$"):
        field(record, "flag", int, "x")
    with pytest.raises(InputError, match=r"x: other is missing; expected a list or an object$"):
        field(record, "other", (list, dict), "x")
    with pytest.raises(InputError, match=r"x is \[1, 2, .*\.\.\., not an object$"):
        field(list(range(1, 100)), "other", list, "x")


def test_numbers():
    assert (finite("1.5", "n", "x"), finite(-2, "n", "x"), whole("3.0", "n", "x")) == (1.5, -2.0, 3)
    for wrong in (None, "a", "", True, math.nan, "inf", 2.0**31, [1], "1e400"):
        with pytest.raises(InputError, match=r"x: n is .*; expected a finite number$"):
            finite(wrong, "n", "x")
    with pytest.raises(InputError, match=r"x: n is 1.5; expected a whole number$"):
        whole(1.5, "n", "x")


def test_json(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"a\.json: there is no such file"):
        read_json(path)
    path.write_text('[{"a": 1, "b": [')
    with pytest.raises(InputError, match=r"a\.json: cannot be read as JSON \(Expecting value"):
        read_json(path)
    assert json_begins(path, ("a", "b"))
    assert not json_begins(path, ("a", "c"))
    path.write_bytes(b"\xef\xbb\xbf {}")
    assert json_begins(path, ())
    path.write_text("a")
    assert not json_begins(path, ())
    assert not json_begins(tmp_path, ())
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"a\.json: cannot be read as JSON"):
        read_json(path)


def test_pictures(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    (second / "b").mkdir(parents=True)
    (second / "b/a.PNG").touch()
    assert find_picture("b/a.PNG", [first, second], "x") == second / "b/a.PNG"
    assert find_picture("b\\a.PNG", [first, second], "x") == second / "b/a.PNG"
    assert find_picture("b", [first, second], "x") is None
    assert find_without_suffix("b/a", [first, second], "x") == second / "b/a.PNG"
    assert find_without_suffix("b/c", [first, second], "x") is None
    for name in ("../a.png", "/a.png", "b/../../a.png", "..\\a.png", "C:/a.png", "", "a\0.png"):
        with pytest.raises(InputError, match=r"x: the name .* leads out of the export's folder"):
            find_picture(name, [first], "x")
    refuse_missing([], tmp_path, [first])
    with pytest.raises(
        InputError, match=r"2 pictures are missing, the first is a; put them into one of .*first/, .*second/$"
    ):
        refuse_missing(["a", "b"], tmp_path / "x.xml", [first, second])


def test_pictures_by_the_end_of_their_path(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second / "b"):
        folder.mkdir(parents=True)
        (folder / "a.png").touch()
    (tmp_path / "c.png").touch()
    for name in ("b/a.png", "/x/b/a.png", "C:\\x\\b\\a.png", "../b/a.png", "x/../b/a.png", "./b//a.png"):
        assert find_by_end(name, [first, second], "x") == second / "b/a.png"
    for name in ("a.png", "/a.png", "x/a.png", "b/../a.png"):
        assert find_by_end(name, [first, second], "x") == first / "a.png"
    for name in ("../c.png", str(tmp_path / "c.png"), "b/..", "/", "", ".", "C:"):
        assert find_by_end(name, [first, second], "x") is None
    with pytest.raises(InputError, match=r"x: the name .* leads out of the export's folder"):
        find_by_end("a\0.png", [first], "x")


def test_sizes_are_those_of_the_upright_picture(tmp_path):
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "lying.jpg", exif=exif)
    image.save(tmp_path / "plain.png")
    assert picture_size(tmp_path / "lying.jpg") == (4, 2)
    assert picture_size(tmp_path / "plain.png") == (2, 4)
    with pytest.raises(InputError, match=r"absent\.png: there is no such picture"):
        picture_size(tmp_path / "absent.png")
