import contextlib
import io
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from thingstuff.data.images import locate_segments, read_id_map, read_image, read_picture, read_stored
from thingstuff.errors import InputError
from thingstuff.structures import encode_ids

# 2 x 3 pixels, no two alike.
PIXELS = np.array(
    [[[250, 0, 0], [0, 240, 0], [0, 0, 230]], [[20, 30, 40], [200, 150, 100], [9, 99, 199]]], dtype=np.uint8
)
STORED_SIZE = (2, 3)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


# --- kinds of pictures ---


def test_rgb_png_is_read_as_it_is(tmp_path):
    image = read_image(save(tmp_path / "a.png", Image.fromarray(PIXELS)))
    np.testing.assert_array_equal(image, PIXELS)
    assert image.flags.writeable  # torch warns of arrays that are not


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, PIXELS),
        (2, PIXELS[:, ::-1]),
        (3, PIXELS[::-1, ::-1]),
        (4, PIXELS[::-1]),
        (5, PIXELS.swapaxes(0, 1)),
        (6, np.rot90(PIXELS, -1)),  # stored rotated counter-clockwise, shown turned clockwise
        (7, PIXELS[::-1, ::-1].swapaxes(0, 1)),
        (8, np.rot90(PIXELS, 1)),
        (77, PIXELS),  # no orientation that the standard knows
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_exif_orientation_is_applied(tmp_path, orientation, upright, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"rotated.{suffix}", Image.fromarray(PIXELS), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)


def test_exif_of_a_jpeg_swaps_its_sides(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "phone.jpg", Image.new("RGB", (40, 24), (200, 10, 10)), exif=exif)
    assert read_image(path).shape == (40, 24, 3)


def test_damaged_exif_does_not_spoil_the_picture(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("RGB", (8, 8), (90, 90, 90)), exif=b"Exif\x00\x00garbage, no TIFF header")
    assert read_image(path).shape == (8, 8, 3)


def test_grey_becomes_rgb(tmp_path):
    grey = np.array([[0, 128, 255]], dtype=np.uint8)
    image = read_image(save(tmp_path / "grey.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


def test_bilevel_becomes_black_and_white(tmp_path):
    image = read_image(save(tmp_path / "bilevel.png", Image.fromarray(np.array([[True, False]]))))
    np.testing.assert_array_equal(image, [[[255] * 3, [0] * 3]])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path, suffix):
    # 65535 / 257 = 255 exactly; 257 -> 1; 385 = 1.498 * 257 -> 1; 386 = 1.502 * 257 -> 2.
    deep = np.array([[0, 257, 385, 386, 65535]], dtype=np.uint16)
    image = read_image(save(tmp_path / f"deep.{suffix}", Image.fromarray(deep)))
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 1, 2, 255])
    assert image.shape == (1, 5, 3)


def test_sixteen_bit_big_endian_tiff_and_pgm(tmp_path):
    deep = np.array([[0, 257, 65535]], dtype=">u2")
    tiff = save(tmp_path / "big.tiff", Image.frombytes("I;16B", (3, 1), deep.tobytes()))
    pgm = tmp_path / "deep.pgm"
    pgm.write_bytes(b"P5 3 1 65535\n" + deep.tobytes())
    for path in (tiff, pgm):
        np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 255])


def test_sixteen_bit_rgb_png_stays_within_a_level(tmp_path):
    deep = np.array([[[0, 257 * 100, 65535]]], dtype=">u2")
    path = tmp_path / "deep_rgb.png"
    path.write_bytes(png_bytes(1, 1, bit_depth=16, color_type=2, raw=b"\x00" + deep.tobytes()))
    np.testing.assert_array_equal(read_image(path), [[[0, 100, 255]]])


def test_float_pixels_are_refused_with_a_remedy(tmp_path):
    path = save(tmp_path / "float.tiff", Image.fromarray(np.ones((2, 2), dtype=np.float32)))
    with pytest.raises(InputError, match=r"float\.tiff: 32-bit pixels .* convert the picture to 8 or 16 bits"):
        read_image(path)


def test_cmyk_jpeg(tmp_path):
    # No cyan, full magenta and yellow, no black: red.
    image = read_image(save(tmp_path / "print.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95))
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), [255, 0, 0], atol=4)


def test_alpha_is_dropped(tmp_path):
    rgba = np.dstack([PIXELS, np.full(STORED_SIZE, 7, dtype=np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "rgba.png", Image.fromarray(rgba))), PIXELS)
    grey_alpha = Image.new("LA", (2, 1), (60, 3))
    np.testing.assert_array_equal(read_image(save(tmp_path / "la.png", grey_alpha)), np.full((1, 2, 3), 60))


def test_palette_with_transparency(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    path = save(tmp_path / "palette.png", palette, transparency=bytes([0, 128]))
    np.testing.assert_array_equal(read_image(path), [[[10, 20, 30], [40, 50, 60]]])


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "two.gif"), np.full((4, 4, 3), (255, 0, 0)))


@pytest.mark.parametrize("size", [(1, 1), (300, 20000), (20000, 300)])
def test_odd_sizes(tmp_path, size):
    path = save(tmp_path / "odd.png", Image.new("RGB", size[::-1], (1, 2, 3)), compress_level=1)
    image = read_image(path)
    assert image.shape == (*size, 3)
    assert image[-1, -1].tolist() == [1, 2, 3]


# --- what cannot be read ---


def test_missing_picture(tmp_path):
    with pytest.raises(InputError, match=r"absent\.jpg: there is no such picture; check the path"):
        read_image(tmp_path / "absent.jpg")


def test_folder(tmp_path):
    with pytest.raises(InputError, match=r"this is a folder, not a picture; name the files in it"):
        read_image(tmp_path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(InputError, match=r"empty\.jpg: the file is empty \(0 bytes\); replace it by a JPEG"):
        read_image(path)


def test_text_file(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("no picture at all")
    with pytest.raises(InputError, match=r"notes\.png: the file is not a picture of a format that Pillow reads"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "bmp", "gif"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_picture(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"whole.{suffix}", Image.fromarray(noise))
    whole = path.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InputError) as caught:
        read_image(cut)
    message = str(caught.value)
    assert str(cut) in message
    assert "\n" not in message
    assert re.search(r"(copy or download it again|replace it by)", message)


def test_no_permission(tmp_path, monkeypatch):
    (tmp_path / "secret.png").touch()

    def refuse(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Image, "open", refuse)  # whoever runs the tests may be root, who may read everything
    with pytest.raises(InputError, match=r"secret\.png: no permission to read this picture; change"):
        read_image(tmp_path / "secret.png")


def test_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(100_000, 100_000, bit_depth=8, color_type=0, raw=b""))
    with pytest.raises(InputError, match=r"bomb\.png: the picture has more than 178 million pixels; cut it into tiles"):
        read_image(path)


def test_large_pictures_below_the_limit_raise_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # PIXELS has 6: above this, below twice as many
    np.testing.assert_array_equal(read_image(save(tmp_path / "large.png", Image.fromarray(PIXELS))), PIXELS)


@given(st.binary(max_size=60), st.integers(min_value=0, max_value=200))
def test_damage_never_ends_in_another_error(tmp_path_factory, garbage, offset):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, format="PNG")
    damaged = buffer.getvalue()[:offset] + garbage + buffer.getvalue()[offset + len(garbage) :]
    path = tmp_path_factory.mktemp("damage") / "damaged.png"
    path.write_bytes(damaged)
    # Some damage goes unnoticed; any other error than InputError fails the test.
    with contextlib.suppress(InputError):
        assert read_image(path).dtype == np.uint8


# --- id maps ---


@pytest.mark.parametrize("alpha", [False, True])
def test_id_map(tmp_path, alpha):
    ids = np.array([[0, 1, 255], [256, 65536, 2**24 - 1]], dtype=np.int32)
    image = Image.fromarray(encode_ids(ids))
    path = save(tmp_path / "map.png", image.convert("RGBA") if alpha else image)
    np.testing.assert_array_equal(read_id_map(path), ids)


@pytest.mark.parametrize(
    ("image", "suffix", "kind"),
    [
        (Image.new("L", (2, 2)), "png", "8-bit PNG file of mode L"),
        (Image.new("P", (2, 2)), "png", "PNG file of mode P"),
        (Image.new("I;16", (2, 2)), "png", "16-bit PNG file of mode I;16"),
        (Image.new("RGB", (2, 2)), "jpg", "JPEG file of mode RGB"),
    ],
)
def test_other_kinds_of_id_map_are_refused(tmp_path, image, suffix, kind):
    path = save(tmp_path / f"map.{suffix}", image)
    with pytest.raises(InputError, match=re.escape(kind) + r", not an 8-bit RGB PNG file; write ids as R \+ 256 G"):
        read_id_map(path)


def test_sixteen_bit_rgb_id_map_is_refused(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(1, 1, bit_depth=16, color_type=2, raw=b"\x00" + bytes(6)))
    with pytest.raises(InputError, match=r"16-bit PNG file of mode RGB, not an 8-bit RGB"):
        read_id_map(path)


def test_missing_id_map(tmp_path):
    with pytest.raises(InputError, match="there is no such picture"):
        read_id_map(tmp_path / "absent.png")


def png_bytes(width: int, height: int, *, bit_depth: int, color_type: int, raw: bytes) -> bytes:
    """A PNG file of kinds that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# --- segments of an id map ---


def test_locate_segments():
    ids = np.array([[7, 7, 0, 5], [7, 9, 9, 5], [0, 9, 3, 5]], dtype=np.int32)
    located = locate_segments(ids, [5, 7, 9, 1000])  # 3 is not listed, 1000 is not there
    np.testing.assert_array_equal(located.index, [[2, 2, 0, 1], [2, 3, 3, 1], [0, 3, 0, 1]])
    assert located.areas.tolist() == [3, 3, 3, 0]
    assert located.boxes.tolist() == [[3, 0, 4, 3], [0, 0, 2, 2], [1, 1, 3, 3], [0, 0, 0, 0]]


def test_locate_nothing():
    located = locate_segments(np.zeros((2, 3), dtype=np.int32), [])
    assert not located.index.any()
    assert located.areas.shape == (0,)
    assert located.boxes.shape == (0, 4)


def test_a_segment_that_wraps_around_the_end_of_a_row():
    # The last pixel of row 0 and the first of row 1 are neighbours in memory, not in the picture.
    located = locate_segments(np.array([[0, 0, 4], [4, 0, 0]], dtype=np.int32), [4])
    assert located.areas.tolist() == [2]
    assert located.boxes.tolist() == [[0, 0, 3, 2]]


@given(
    hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 5)),
    st.permutations([1, 2, 3, 5]),
)
def test_locate_segments_agrees_with_one_mask_per_segment(ids, segment_ids):
    located = locate_segments(ids, segment_ids)
    for row, identity in enumerate(segment_ids):
        mask = ids == identity
        np.testing.assert_array_equal(located.index == row + 1, mask)
        assert located.areas[row] == mask.sum()
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if mask.any() else [0, 0, 0, 0]
        assert located.boxes[row].tolist() == expected


# --- channels as they stand in the file ---


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 4), (4, 5, 12)])
def test_arrays_keep_channels_and_bits(tmp_path, shape, dtype):
    stored = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "a.npy", stored)
    image = read_stored(tmp_path / "a.npy")
    assert image.dtype == np.dtype(dtype).newbyteorder("=")
    kind = "uint8" if image.dtype == np.uint8 else "uint16"
    np.testing.assert_array_equal(image, stored.reshape(4, 5, -1))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.npy", image.shape[2], kind), image)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), dtype=np.float32), r"an array of float32; save uint8 or uint16"),
        (np.zeros((2, 2), dtype=np.int16), r"an array of int16"),
        (np.zeros((2, 2), dtype=np.uint32), r"an array of uint32"),
        (np.zeros(2, dtype=np.uint8), r"an array of 2 sides; save \(height, width, channels\)"),
        (np.zeros((0, 2, 3), dtype=np.uint8), r"an array of 0 x 2 x 3 sides"),
        (np.array([{"a": 1}]), r"no array can be read \(Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=rf"a\.npy: {message}"):
        read_stored(tmp_path / "a.npy")


def test_files_that_are_no_arrays(tmp_path):
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match=r"cut\.npy: no array can be read .* numpy\.save"):
        read_stored(tmp_path / "cut.npy")
    with pytest.raises(InputError, match=r"folder\.npy: this is a folder"):
        read_stored(tmp_path / "folder.npy")
    with pytest.raises(InputError, match=r"none\.npy: there is no such picture"):
        read_stored(tmp_path / "none.npy")
    with open(tmp_path / "several.npy", "wb") as file:
        np.savez(file, a=np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"several\.npy: an array of no sides"):
        read_stored(tmp_path / "several.npy")


def test_an_array_of_three_channels_is_rgb_where_that_is_wanted(tmp_path):
    np.save(tmp_path / "rgb.npy", PIXELS)
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.npy"), PIXELS)
    np.save(tmp_path / "deep.npy", PIXELS.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.npy"), PIXELS)
    deep = read_picture(tmp_path / "deep.npy", 3, "uint16")
    np.testing.assert_array_equal(deep, PIXELS.astype(np.uint16) * 257)
    np.save(tmp_path / "four.npy", np.zeros((2, 2, 4), dtype=np.uint8))
    with pytest.raises(InputError, match=r"four\.npy: 4 channels, where RGB is expected; .* train finetune"):
        read_image(tmp_path / "four.npy")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGBA", 4), ("CMYK", 4)])
def test_tiff_keeps_channels_that_are_not_rgb(tmp_path, mode, channels):
    stored = np.random.default_rng(0).integers(0, 256, (3, 4, channels), dtype=np.uint8)
    path = save(tmp_path / "a.tif", Image.frombytes(mode, (4, 3), stored.tobytes()))
    np.testing.assert_array_equal(read_stored(path), stored)
    assert read_image(path).shape == (3, 4, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pages_of_a_tiff_are_channels(tmp_path, dtype):
    stored = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 4, 12)).astype(dtype)
    pages = [Image.fromarray(stored[:, :, channel]) for channel in range(12)]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    image = read_stored(path)
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, stored)
    other = [pages[0], Image.new(pages[0].mode, (2, 2))]
    path = save(tmp_path / "b.tif", other[0], save_all=True, append_images=other[1:])
    with pytest.raises(InputError, match=r"b\.tif: page 2 is 2 x 2 .*, page 1 is 4 x 3 .*; pages are channels"):
        read_stored(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_tiff_is_turned_upright(tmp_path, dtype):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.array([[1, 2, 3], [4, 5, 60]], dtype=dtype) * 3
    path = save(tmp_path / "a.tif", Image.fromarray(deep), exif=exif)
    np.testing.assert_array_equal(read_stored(path)[:, :, 0], np.rot90(deep, -1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_other_files_are_rgb(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(read_stored(path), PIXELS)
    grey = save(tmp_path / "grey.png", Image.fromarray(PIXELS[..., 0]))
    assert read_stored(grey).shape == (2, 3, 3)


def test_channels_that_pillow_leaves_out_are_not_lost_in_silence(tmp_path):
    """RGB with two further channels, written by hand: Pillow would give three."""
    path = tmp_path / "five.tif"
    path.write_bytes(tiff_bytes(width=2, height=1, samples=5, extra=2, photometric=2))
    with pytest.raises(InputError, match=r"five\.tif: a TIFF file of 5 channels of 8 bits, of which Pillow reads 3"):
        read_stored(path)
    path.write_bytes(tiff_bytes(width=2, height=1, samples=12, extra=11, photometric=1))
    with pytest.raises(InputError, match=r"five\.tif: .* more channels or bits: save .* with numpy\.save as \.npy"):
        read_stored(path)


def tiff_bytes(*, width: int, height: int, samples: int, extra: int, photometric: int) -> bytes:
    """A TIFF file of 8-bit zeros, little-endian, one strip; ``extra`` samples have no meaning."""
    count = 11
    values_at = 8 + 2 + 12 * count + 4
    bits, kinds = struct.pack(f"<{samples}H", *[8] * samples), struct.pack(f"<{extra}H", *[0] * extra)
    kinds_at = values_at + len(bits)
    pixels_at = kinds_at + len(kinds)
    inline_kinds = struct.unpack("<I", kinds.ljust(4, b"\0"))[0] if extra <= 2 else kinds_at
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, values_at), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, pixels_at), (277, 3, 1, samples), (278, 4, 1, height),
        (279, 4, 1, width * height * samples), (284, 3, 1, 1), (338, 3, extra, inline_kinds),
    ]  # fmt: skip
    directory = struct.pack("<H", count) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8) + directory + bits + kinds + bytes(width * height * samples)


def test_what_the_network_does_not_take(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 4), dtype=np.uint8))
    with pytest.raises(InputError, match=r"a\.npy: 4 channels of uint8, where the network takes 5 channels; bring all"):
        read_picture(tmp_path / "a.npy", 5, "rgb")
    with pytest.raises(InputError, match=r"a\.npy: 4 channels of uint8, where the network takes 4 channels of uint16;"):
        read_picture(tmp_path / "a.npy", 4, "uint16")
    assert read_picture(tmp_path / "a.npy", 4, "rgb").shape == (2, 2, 4)
