from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thingstuff.data.drawn.brush_runs import decode_brush
from thingstuff.errors import InputError


def brush_header(num_words: int, field_bits: Sequence[int] = (3, 4, 8, 16)) -> str:
    return f"{num_words:032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in field_bits)


def encode_brush(alpha: np.ndarray, literal: bool = False, field_bits: Sequence[int] = (3, 4, 8, 16)) -> list[int]:
    """Write an opacity map as Label Studio's frontend does: as an RGBA picture in blocks of one word or of many."""
    words = np.repeat(alpha.astype(np.uint8).ravel(), 4).tolist()
    bits = brush_header(len(words), field_bits)
    position = 0
    while position < len(words):
        count = 1
        limit = min(len(words) - position, 2 ** max(field_bits))
        while count < limit and (literal or words[position + count] == words[position]):
            count += 1
        choice = next(index for index, width in enumerate(field_bits) if count <= 2**width)
        block = words[position : position + count] if literal else words[position : position + 1]
        bits += f"{int(not literal)}{choice:02b}{count - 1:0{field_bits[choice]}b}"
        bits += "".join(f"{word:08b}" for word in block)
        position += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[begin : begin + 8], 2) for begin in range(0, len(bits), 8)]


def test_a_message_by_hand():
    # One pixel of red 1, green 2, blue 3, alpha 255, and one without anything: 8 words of 8 bits, field widths 3, 4, 8
    # and 16; four words one by one (field of 3 bits: 3), then 0 four times.
    header = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    bits = header + "0" + "00" + "011" + f"{1:08b}{2:08b}{3:08b}{255:08b}" + "1" + "00" + "011" + f"{0:08b}"
    bits += "0" * (-len(bits) % 8)
    message = [int(bits[begin : begin + 8], 2) for begin in range(0, len(bits), 8)]
    np.testing.assert_array_equal(decode_brush(message, (1, 2), "x"), [[True, False]])


def test_the_header_is_that_of_a_published_export():
    # The first bytes of a brush over a picture of 3332 x 2527 pixels.
    bits = brush_header(4 * 2527 * 3332)
    assert [int(bits[begin : begin + 8], 2) for begin in range(0, 40, 8)] == [2, 1, 233, 240, 57]
    assert int(bits[40:48], 2) == 27


@given(
    alpha=arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 127, 128, 255])),
    literal=st.booleans(),
    widths=st.lists(st.integers(1, 16), min_size=4, max_size=4).map(sorted),
)
def test_brushes_keep_every_pixel(alpha, literal, widths):
    # The smoothed edge of a stroke belongs to it from half opacity on.
    np.testing.assert_array_equal(decode_brush(encode_brush(alpha, literal, widths), (4, 5), "x"), alpha >= 128)


@given(data=st.data())
def test_damaged_messages_are_refused_or_read(data):
    message = encode_brush(np.eye(4, 5, dtype=np.uint8) * 255, data.draw(st.booleans()))
    place = data.draw(st.integers(0, len(message) - 1))
    damaged = message[:place] if data.draw(st.booleans()) else [*message[:place], 255 - message[place]]
    with pytest.raises(InputError, match=r"^a\.json: rle "):
        decode_brush(damaged[:-1], (4, 5), "a.json")
