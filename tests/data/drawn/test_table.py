import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thingstuff.data.drawn.drawing import Drawing, DrawnCategory, Piece
from thingstuff.data.drawn.table import LabelTable, NameCounts, read_table, table_of_source, write_table
from thingstuff.errors import InputError

SILENT = tuple(DrawnCategory(name) for name in ("car", "road", "traffic light", "void"))


def counted(*pieces: Piece) -> NameCounts:
    counts = NameCounts()
    counts.add(Drawing(Path("a.jpg"), (10, 10), pieces))
    return counts


def piece(name: str, pixels: int, group: int | None = None, crowd: bool = False) -> Piece:
    return Piece(name, np.ones((1, pixels), dtype=bool), (0, 0), group, crowd)


def listed(table: LabelTable) -> list[tuple[int, str, bool]]:
    return [(c.id, c.name, c.isthing) for c in sorted(table.labels.categories, key=lambda category: category.id)]


def refused(path: Path, text: str, *parts: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_table(path, SILENT)
    assert "\n" not in str(caught.value)
    for part in (str(path), *parts):
        assert part in str(caught.value)


# --- the source says it ---


def test_a_source_that_says_everything_needs_no_table():
    categories = (DrawnCategory("car", True, (1, 2, 3)), DrawnCategory("road", False))
    table = table_of_source(categories, "a")
    assert table is not None
    assert listed(table) == [(1, "car", True), (2, "road", False)]
    assert table.by_name["car"] is not None
    assert table.by_name["car"].color == (1, 2, 3)
    assert table_of_source((*categories, DrawnCategory("sky")), "a") is None


@pytest.mark.parametrize("isthing", [True, False])
def test_only_things_or_only_stuff(isthing: bool):
    table = table_of_source((DrawnCategory("x", isthing),), "a")
    assert table is not None
    assert len(table.labels) == 1


def test_no_class_at_all_and_one_name_for_both():
    with pytest.raises(InputError, match="a: there is no class to learn"):
        table_of_source((), "a")
    with pytest.raises(InputError, match=r"'x' is both thing .* and stuff"):
        table_of_source((DrawnCategory("x", True), DrawnCategory("x", False)), "a")


# --- writing and reading ---


def test_a_written_table_has_guesses_counts_and_is_read_again(tmp_path: Path):
    counts = counted(
        piece("car", 3), piece("car", 4), piece("road", 60), piece("traffic light", 1, 7), piece("traffic light", 1, 7)
    )
    path = tmp_path / "labels.toml"
    categories = (*SILENT, DrawnCategory("tree", True, (9, 8, 7)))
    write_table(path, categories, counts, "export")
    text = path.read_text(encoding="utf-8")
    assert "[car]\nthing = true  # a guess; objects: 2, pictures: 1, share of each: 7 %\n" in text
    assert "[road]\nthing = false  # a guess; objects: 1, pictures: 1, share of each: 60 %\n" in text
    assert '["traffic light"]\nthing = true  # a guess; objects: 1, pictures: 1, share of each: 2 %\n' in text
    assert "[void]\nignore = true  # a guess by the name; not drawn in any picture\n" in text
    assert "[tree]\nthing = true  # says the source; not drawn in any picture\ncolor = [9, 8, 7]\n" in text
    table = read_table(path, categories)
    assert listed(table) == [(1, "car", True), (2, "road", False), (3, "traffic light", True), (4, "tree", True)]
    assert table.by_name["void"] is None


def test_what_is_not_told_apart_or_covers_much_is_taken_for_stuff(tmp_path: Path):
    counts = counted(piece("a", 3, crowd=True), piece("b", 10), piece("c", 10), piece("c", 10), piece("c", 10))
    write_table(tmp_path / "labels.toml", tuple(DrawnCategory(name) for name in "abc"), counts, "x")
    content = tomllib.loads((tmp_path / "labels.toml").read_text())
    assert [content[name]["thing"] for name in "abc"] == [False, True, False]


def test_nothing_is_overwritten(tmp_path: Path):
    path = tmp_path / "labels.toml"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"labels.toml: is there already; take it with --labels"):
        write_table(path, SILENT, NameCounts(), "x")
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written"):
        write_table(tmp_path / "absent" / "labels.toml", SILENT, NameCounts(), "x")


def test_half_a_character_leaves_no_file(tmp_path: Path):
    with pytest.raises(InputError, match=r"^x: the class 'b\\ud83d' has half a character in its name; rename it$"):
        write_table(tmp_path / "labels.toml", (DrawnCategory("a"), DrawnCategory("b\ud83d")), NameCounts(), "x")
    assert not any(tmp_path.iterdir())


def test_half_a_character_is_no_name_where_the_source_says_all():
    with pytest.raises(InputError, match=r"^x: the class 'b\\ud83d' has half a character in its name; rename it$"):
        table_of_source((DrawnCategory("a", True), DrawnCategory("b\ud83d", False)), "x")


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=1, max_size=4, unique=True))
def test_any_name_survives(names: list[str]):
    import tempfile

    categories = tuple(DrawnCategory(name) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.toml"
        write_table(path, categories, NameCounts(), "a\nb")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        assert list(content) == names


# --- what a person may write ---


def test_renamed_merged_and_ignored(tmp_path: Path):
    path = tmp_path / "labels.toml"
    path.write_text(
        '["traffic light"]\nthing = true\nname = "light"\ncolor = [1, 2, 3]\n[road]\nignore = true\n'
        '[car]\nthing = true\nname = "vehicle"\n[void]\nthing = true\nname = "vehicle"\n[elsewhere]\nthing = false\n'
    )
    table = read_table(path, SILENT)
    assert listed(table) == [(1, "light", True), (2, "vehicle", True), (3, "elsewhere", False)]
    assert table.by_name["car"] is table.by_name["void"]
    assert table.by_name["road"] is None
    light = table.by_name["traffic light"]
    assert light is not None
    assert light.color == (1, 2, 3)


def test_missing_names_are_named(tmp_path: Path):
    refused(
        tmp_path / "l.toml",
        "[car]\nthing = true\n",
        '3 names of the source are missing: "road", "traffic light", "void"; add a table for each, for example [road]',
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[car", "not TOML"),
        ("[car]\n[car]\n", "not TOML"),
        ("car = true\n", "car = True stands outside"),
        ("[car]\n", "[car]: thing is missing"),
        ("[car]\nthing = 1\n", "thing is 1; write true"),
        ("[car]\nthink = true\n", "'think'; did you mean thing?"),
        ("[car]\nignore = 1\n", "ignore is 1"),
        ('[car]\nthing = true\nname = ""\n', "name is ''"),
        ("[car]\nthing = true\nname = 3\n", "name is 3"),
        ("[car]\nthing = true\ncolor = [1, 2]\n", "color is [1, 2]"),
        ("[car]\nthing = true\ncolor = [1, 2, 256]\n", "color is"),
        ('["a b"]\n', '["a b"]: thing is missing'),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, part: str):
    refused(tmp_path / "l.toml", text, part)


def test_a_merge_of_thing_and_stuff_and_a_table_of_void_alone(tmp_path: Path):
    rest = "".join(f'["{name}"]\nignore = true\n' for name in ("traffic light", "void"))
    refused(tmp_path / "l.toml", f'[car]\nthing = true\nname = "x"\n[road]\nthing = false\nname = "x"\n{rest}',
            "'x' is both thing (from 'car') and stuff (from 'road')")  # fmt: skip
    refused(tmp_path / "l.toml", f"[car]\nignore = true\n[road]\nignore = true\n{rest}", "no class to learn")


def test_a_missing_or_binary_file(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "absent.toml", SILENT)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not TOML"):
        read_table(tmp_path / "b.toml", SILENT)


def test_more_classes_than_label_maps_hold():
    with pytest.raises(InputError, match="256 categories, at most 255"):
        table_of_source(tuple(DrawnCategory(str(number), True) for number in range(256)), "a")
