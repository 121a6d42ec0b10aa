# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false, reportOptionalIterable=false, reportTypedDictNotRequiredAccess=false
"""The compiled code gives what Pillow and numpy give, on every PNG file there can be."""

import inspect
import itertools
import os
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation import fast
from thingstuff.evaluation.matching import joint_histogram, overlaps_of
from thingstuff.evaluation.png import read_ids, read_packed
from thingstuff.structures import decode_ids, encode_ids

pytest.importorskip("numba", reason="needs the extra: pip install 'thingstuff[fast]'")
PROPERTY = settings(deadline=None, max_examples=60)
FILTERS = range(5)


@pytest.fixture(scope="module")
def extra():
    loaded = fast.load()
    assert loaded is not None
    return loaded


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def paeth(left, up, up_left):
    estimate = left + up - up_left
    distances = [abs(estimate - value) for value in (left, up, up_left)]
    return (left, up, up_left)[distances.index(min(distances))]


def filtered(pixels, filters):
    """The rows of a picture, each after the filter of its own, as the PNG specification says."""
    rows, above = [], np.zeros_like(pixels[0])
    for row, kind in zip(pixels.astype(int), filters, strict=True):
        left = np.vstack([np.zeros_like(row[:1]), row[:-1]])
        up_left = np.vstack([np.zeros_like(row[:1]), above[:-1]])
        predicted = {
            0: np.zeros_like(row),
            1: left,
            2: above,
            3: (left + above) // 2,
            4: np.vectorize(paeth)(left, above, up_left) if kind == 4 else None,
        }[kind]
        rows.append(bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(rows)


def deflated(data, *, level=6, strategy=zlib.Z_DEFAULT_STRATEGY):
    packer = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
    return packer.compress(data) + packer.flush()


def png_file(path, pixels, filters, parts=1, **packing):
    """Write a PNG file with the filters wanted, its stream cut into several chunks."""
    height, width, channels = pixels.shape
    stream = deflated(filtered(pixels, filters), **packing)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2 if channels == 3 else 6, 0, 0, 0])
    cuts = np.linspace(0, len(stream), parts + 1).astype(int)
    pieces = b"".join(chunk(b"IDAT", stream[a:b]) for a, b in pairwise(cuts))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pieces + chunk(b"IEND", b""))


@st.composite
def id_maps(draw, size):
    """Ids in runs and blocks, or noise."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(0, 2**24, draw(st.integers(1, 6)), dtype=np.int32)
    cell = draw(st.sampled_from([1, 2, 5]))
    rows, columns = (np.arange(length) // cell for length in size)
    blocks = rng.integers(0, len(values), (size[0], size[1]))
    return values[blocks[rows[:, None], columns]].astype(np.int32)


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 40))


@st.composite
def pictures(draw):
    size = draw(SIZES)
    maps = [draw(id_maps(size)) for _ in range(2)]
    channels = [draw(st.sampled_from([3, 4])) for _ in maps]
    filters = [draw(st.lists(st.sampled_from(FILTERS), min_size=size[0], max_size=size[0])) for _ in maps]
    packing = draw(
        st.sampled_from(
            [{"level": 0}, {"level": 1}, {"level": 9}, {"strategy": zlib.Z_FIXED}, {"strategy": zlib.Z_RLE}]
        )
    )
    return maps, channels, filters, packing, draw(st.integers(1, 3))


def with_channels(ids, channels):
    rgb = encode_ids(ids)
    alpha = (ids % 251).astype(np.uint8)[..., None]
    return rgb if channels == 3 else np.concatenate([rgb, alpha], axis=2)


def same(found, expected):
    columns = ("truth_ids", "predicted_ids", "areas", "boxes")
    return all(getattr(found, name).tolist() == getattr(expected, name).tolist() for name in columns)


@PROPERTY
@given(pictures())
def test_files_of_all_filters(extra, tmp_path_factory, drawn):
    maps, channels, filters, packing, parts = drawn
    folder = tmp_path_factory.mktemp("png")
    for name, *arguments in zip(("truth.png", "predicted.png"), maps, channels, filters, strict=True):
        ids, number, kinds = arguments
        png_file(folder / name, with_channels(ids, number), kinds, parts, **packing)
        assert read_ids(folder / name).tolist() == ids.tolist()
    packed = [read_packed(folder / name) for name in ("truth.png", "predicted.png")]
    found = fast.count_files(extra, *packed)
    assert found is not None
    assert same(overlaps_of(*found), joint_histogram(*maps, None))


@PROPERTY
@given(SIZES.flatmap(lambda size: st.tuples(id_maps(size), id_maps(size))))
def test_maps_in_memory(extra, maps):
    assert same(joint_histogram(*maps, extra), joint_histogram(*maps, None))
    transposed = [ids.T for ids in maps]
    assert same(joint_histogram(*transposed, extra), joint_histogram(*transposed, None))


@pytest.mark.parametrize("kind", FILTERS)
def test_large_picture_of_one_filter(extra, tmp_path, kind):
    """Long matches, far distances, several blocks of codes and stored ones."""
    rng = np.random.default_rng(kind)
    ids = np.kron(rng.integers(1, 2**24, (6, 8), dtype=np.int32), np.ones((50, 40), dtype=np.int32))
    ids[100:130] = rng.integers(0, 2**24, (30, 320))
    other = np.roll(ids, (3, 5), (0, 1))
    for name, values in (("a.png", ids), ("b.png", other)):
        png_file(tmp_path / name, encode_ids(values), [kind] * len(values))
    found = fast.count_files(extra, read_packed(tmp_path / "a.png"), read_packed(tmp_path / "b.png"))
    assert same(overlaps_of(*found), joint_histogram(ids, other, None))


def test_more_pairs_than_the_table_holds(extra):
    ids = np.arange(90_000, dtype=np.int32).reshape(300, 300)
    assert same(joint_histogram(ids, ids[::-1], extra), joint_histogram(ids, ids[::-1], None))


def test_boxes_by_hand(extra):
    ids = np.array([[0, 7, 7, 0], [7, 7, 0, 0], [0, 0, 0, 7]], dtype=np.int32)
    for used in (None, extra):
        overlaps = joint_histogram(ids, np.zeros_like(ids), used)
        assert overlaps.truth_ids.tolist() == [0, 7]
        assert overlaps.areas.tolist() == [7, 5]
        assert overlaps.boxes.tolist() == [[0, 0, 4, 3], [0, 0, 4, 3]]


def test_picture_without_pixels(extra):
    nothing = np.zeros((0, 5), dtype=np.int32)
    for used in (None, extra):
        assert joint_histogram(nothing, nothing, used).areas.size == 0


# --- files that are not what they seem are left to Pillow ---


def written(tmp_path, **options):
    path = tmp_path / "ids.png"
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path, **options)
    return path


@pytest.mark.parametrize("position", [40, 60, 300, -30, -20, -13])
def test_damaged_bytes_are_noticed(extra, tmp_path, position):
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)
    assert read_packed(path) is None or position in (-13,)


@pytest.mark.parametrize("seed", range(200))
def test_damaged_streams_never_crash(extra, seed):
    """Whatever the bytes: the answer is right, or there is none."""
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(1, 99, (4, 5), dtype=np.int32), np.ones((6, 7), dtype=np.int32))
    data = bytearray(deflated(filtered(encode_ids(ids), rng.integers(0, 5, 24)), level=int(rng.integers(0, 10))))
    intact = np.frombuffer(bytes(data) + bytes(16), dtype=np.uint8)
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] = rng.integers(256)
    cut = data[: rng.integers(1, len(data) + 1)] if seed % 3 == 0 else data
    damaged = np.frombuffer(bytes(cut) + bytes(16), dtype=np.uint8)
    good = fast.PackedPng((24, 35), 3, intact)
    answer = fast.count_files(extra, fast.PackedPng((24, 35), 3, damaged), good)
    assert answer is None or bytes(cut) == intact[:-16].tobytes()
    again = fast.count_files(extra, good, good)
    assert again is not None
    assert same(overlaps_of(*again), joint_histogram(ids, ids, None))


def test_wrong_checksum_of_the_pixels_is_noticed(extra):
    data = bytearray(deflated(filtered(np.zeros((2, 3, 3), dtype=np.uint8), [0, 0])))
    data[-1] ^= 1
    png = fast.PackedPng((2, 3), 3, np.frombuffer(bytes(data) + bytes(16), dtype=np.uint8))
    assert fast.count_files(extra, png, png) is None


def test_unknown_filter_is_left_to_pillow(extra, tmp_path):
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    stream = deflated(b"\x05" + bytes(9) + b"\x00" + bytes(9))
    png = fast.PackedPng((2, 3), 3, np.frombuffer(stream + bytes(16), dtype=np.uint8))
    assert fast.count_files(extra, png, png) is None
    png_file(tmp_path / "x.png", pixels, [0, 0])
    packed = read_packed(tmp_path / "x.png")
    assert packed is not None
    assert fast.count_files(extra, packed, packed) is not None


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "LA", "1"])
def test_other_kinds_of_pictures_are_refused(tmp_path, mode):
    path = tmp_path / "ids.png"
    if mode == "I;16":
        Image.fromarray(np.zeros((3, 4), dtype=np.uint16)).save(path)
    else:
        Image.new(mode, (4, 3)).save(path)
    assert read_packed(path) is None
    with pytest.raises(InputError, match=r"ids.png: this is a \d+-bit PNG file of mode .*, which holds no segment ids"):
        read_ids(path)


def test_missing_and_empty_files(tmp_path):
    path = tmp_path / "ids.png"
    assert read_packed(path) is None
    with pytest.raises(InputError, match="there is no such file"):
        read_ids(path)
    path.touch()
    assert read_packed(path) is None
    with pytest.raises(InputError, match="the file is empty"):
        read_ids(path)


def test_header_that_promises_too_much_asks_for_no_memory(tmp_path):
    header = (20_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    path = tmp_path / "ids.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", deflated(bytes(99))))
    assert read_packed(path) is None


@pytest.mark.slow
def test_code_is_kept_in_the_cache_folder_of_the_user(tmp_path):
    """Compiles anew in an empty home, so that what is kept is complete."""
    code = (
        "from thingstuff.evaluation import fast; import numpy as np; extra = fast.load();"
        "hits = [sum(f.stats.cache_hits.values()) for f in (extra.compiled.count_files, extra.compiled.count_maps)];"
        "print(*hits, extra.seconds)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    answers = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    ]
    first, second = (answer.stdout.split() for answer in answers)
    assert first[:2] == ["0", "0"]
    assert second[:2] == ["1", "1"]
    assert float(second[-1]) < float(first[-1])
    assert list(Path(tmp_path).rglob("*.nbi"))


def test_without_the_extra_nothing_is_missing(tmp_path):
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from thingstuff.evaluation import fast\n"
        "from thingstuff.evaluation.matching import count_overlaps\n"
        "ids = np.array([[1, 1, 2]], dtype=np.int32)\n"
        "print(fast.load(), count_overlaps(ids, ids).areas.tolist())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[0] == "None [2, 1]"


def test_decoding_is_what_the_format_says(tmp_path):
    ids = np.array([[1, 256, 65536], [2**24 - 1, 0, 65793]], dtype=np.int32)
    Image.fromarray(encode_ids(ids)).save(tmp_path / "ids.png")
    assert read_ids(tmp_path / "ids.png").tolist() == ids.tolist()
    assert decode_ids(encode_ids(ids)).tolist() == ids.tolist()


def test_maps_in_memory_load_the_extra_only_when_it_pays(monkeypatch):
    monkeypatch.setattr(fast, "_calls", itertools.count())
    monkeypatch.setattr(fast, "_BUSY", 2)
    monkeypatch.setattr(fast, "load", lambda: "loaded")
    assert [inspect.unwrap(fast.load_when_busy)() for _ in range(4)] == [None, None, "loaded", "loaded"]
