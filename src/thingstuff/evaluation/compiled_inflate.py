"""Compiled code of the extra ``[fast]``: inflating zlib streams that are nearly all zero.

Only the bytes that are not zero are written down, with their positions. Filtered PNG rows of id maps have few of them:
a match that repeats zeros, which is most of the data, costs nothing at all.

Sources: RFC 1950 (zlib) and RFC 1951 (deflate).
"""

from typing import Any, no_type_check

import numba
import numpy as np

njit: Any = numba.njit
helper: Any = njit(nogil=True, _nrt=False)
"""Decorator of a function that other compiled functions call.

Without numba's counting of references to arrays, which took a third of the time: nothing here makes an array.
"""

DAMAGED = -1
"""Instead of a count: the data break a rule of their format."""
FAST_BITS = 10
"""Codes up to this length are looked up; longer ones, which are rare, are decoded bit by bit."""
_LENGTH_BASE = np.array([3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
                         163, 195, 227, 258], dtype=np.int64)  # fmt: skip
_LENGTH_EXTRA = np.array([0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4 + [0], dtype=np.uint64)
_DISTANCE_BASE = np.array([1, 2, 3, 4] + [(2 + k % 2) * 2 ** (k // 2) + 1 for k in range(2, 28)], dtype=np.int64)
_DISTANCE_EXTRA = np.array([0, 0] + [k // 2 for k in range(28)], dtype=np.uint64)
_CODE_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], dtype=np.int64)


@helper
@no_type_check
def _refill(data, place):
    """Have at least 56 bits at hand. ``place`` is bits at hand, their number, next byte."""
    bits, count, byte = place
    if byte + np.uint64(8) > np.uint64(data.size):
        # Past the end zeros are read, which ``inflate`` finds out.
        return bits, np.uint64(63), byte + np.uint64(8)
    # Compiles to one read of eight bytes.
    word = (
        np.uint64(data[byte])
        | np.uint64(data[byte + np.uint64(1)]) << np.uint64(8)
        | np.uint64(data[byte + np.uint64(2)]) << np.uint64(16)
        | np.uint64(data[byte + np.uint64(3)]) << np.uint64(24)
        | np.uint64(data[byte + np.uint64(4)]) << np.uint64(32)
        | np.uint64(data[byte + np.uint64(5)]) << np.uint64(40)
        | np.uint64(data[byte + np.uint64(6)]) << np.uint64(48)
        | np.uint64(data[byte + np.uint64(7)]) << np.uint64(56)
    )
    return bits | word << count, count | np.uint64(56), byte + ((np.uint64(63) - count) >> np.uint64(3))


@helper
@no_type_check
def _build(lengths, begin, end, code):
    """Tables of the canonical code with the lengths from ``begin`` to before ``end``; False if they cannot be."""
    lookup, counts, symbols, firsts, codes = code
    counts[:] = 0
    for symbol in range(begin, end):
        counts[lengths[symbol]] += 1
    counts[0] = 0
    left = 1
    firsts[1], codes[1] = 0, 0
    for length in range(1, 16):
        left = 2 * left - counts[length]
        if left < 0:
            return False
        firsts[length + 1] = firsts[length] + counts[length]
        codes[length + 1] = (codes[length] + counts[length]) << 1
    lookup[:] = 0
    for symbol in range(begin, end):
        length = lengths[symbol]
        if length == 0:
            continue
        symbols[firsts[length]] = symbol - begin
        firsts[length] += 1
        if length <= FAST_BITS:
            backwards, rest = 0, codes[length]
            for _ in range(length):
                backwards = backwards << 1 | rest & 1
                rest >>= 1
            for index in range(backwards, 1 << FAST_BITS, 1 << length):
                lookup[index] = (symbol - begin) << 4 | length
        codes[length] += 1
    return True


@helper
@no_type_check
def _decode(bits, lookup, counts, symbols):
    """Symbol and length of the code that the bits begin with; symbol -1 if none does."""
    entry = lookup[bits & np.uint64((1 << FAST_BITS) - 1)]
    if entry != 0:
        return np.int64(entry >> 4), np.uint64(entry & 15)
    code, first, index = 0, 0, 0
    for length in range(1, 16):
        code |= np.int64(bits & np.uint64(1))
        bits >>= np.uint64(1)
        count = counts[length]
        if code - count < first:
            return np.int64(symbols[index + code - first]), np.uint64(length)
        index += count
        first = (first + count) << 1
        code <<= 1
    return np.int64(-1), np.uint64(0)


@helper
@no_type_check
def _read_lengths(data, place, lengths, code):
    """Code lengths of a block with codes of its own: numbers of literal and of distance codes, and the new place."""
    bits, count, byte = _refill(data, place)
    num_literals = np.int64(bits & np.uint64(31)) + 257
    num_distances = np.int64(bits >> np.uint64(5) & np.uint64(31)) + 1
    num_codes = np.int64(bits >> np.uint64(10) & np.uint64(15)) + 4
    bits, count = bits >> np.uint64(14), count - np.uint64(14)
    lengths[:19] = 0
    for index in range(num_codes):
        bits, count, byte = _refill(data, (bits, count, byte))
        lengths[_CODE_ORDER[index]] = np.int64(bits & np.uint64(7))
        bits, count = bits >> np.uint64(3), count - np.uint64(3)
    if not _build(lengths, 0, 19, code):
        return 0, 0, (bits, count, byte)
    index = 0
    while index < num_literals + num_distances:
        bits, count, byte = _refill(data, (bits, count, byte))
        symbol, used = _decode(bits, code[0], code[1], code[2])
        bits, count = bits >> used, count - used
        value, repeat, extra = symbol, 1, 0
        if symbol == 16:
            value, repeat, extra = (lengths[index - 1] if index else -1), 3, 2
        elif symbol >= 17:
            value, repeat, extra = 0, (3 if symbol == 17 else 11), (3 if symbol == 17 else 7)
        repeat += np.int64(bits & np.uint64((1 << extra) - 1))
        bits, count = bits >> np.uint64(extra), count - np.uint64(extra)
        if value < 0 or index + repeat > num_literals + num_distances:
            return 0, 0, (bits, count, byte)
        lengths[index : index + repeat] = value
        index += repeat
    return num_literals, num_distances, (bits, count, byte)


@helper
@no_type_check
def _fixed_lengths(lengths):
    """Code lengths of a block with the codes of the standard."""
    lengths[:144] = 8
    lengths[144:256] = 9
    lengths[256:280] = 7
    lengths[280:288] = 8
    lengths[288:318] = 5


@helper
@no_type_check
def _repeat(positions, values, n, source, end, distance):
    """Repeat what stands from ``source`` to before ``end``, ``distance`` bytes later; returns the new ``n``."""
    if n == 0 or positions[n - 1] < source:
        return n
    # Search backwards in growing steps, then halve: sources are mostly near.
    low, step = n - 1, 1
    while low > 0 and positions[low] >= source:
        low -= step
        step *= 2
    low = max(low, 0)
    high = n - 1
    while low < high:
        middle = (low + high) >> 1
        if positions[middle] < source:
            low = middle + 1
        else:
            high = middle
    # Where source and target overlap, this reads what it has just written, as it should.
    while low < n and positions[low] < end:
        positions[n] = positions[low] + distance
        values[n] = values[low]
        n += 1
        low += 1
    return n


@helper
@no_type_check
def _block(data, place, size, output, n, positions, values, literal, distances):
    """Decode one compressed block; returns output position (DAMAGED if wrong), number of bytes noted, place."""
    lookup, counts, symbols, _, _ = literal
    other_lookup, other_counts, other_symbols, _, _ = distances
    bits, count, byte = place
    while True:
        bits, count, byte = _refill(data, (bits, count, byte))
        symbol, used = _decode(bits, lookup, counts, symbols)
        bits, count = bits >> used, count - used
        if symbol < 256:
            if symbol < 0 or output >= size or byte > np.uint64(data.size):
                return DAMAGED, n, (bits, count, byte)
            if symbol != 0:
                positions[n] = output
                values[n] = symbol
                n += 1
            output += 1
            continue
        if symbol == 256:
            return output, n, (bits, count, byte)
        if symbol > 285:
            return DAMAGED, n, (bits, count, byte)
        extra = _LENGTH_EXTRA[symbol - 257]
        length = _LENGTH_BASE[symbol - 257] + np.int64(bits & ((np.uint64(1) << extra) - np.uint64(1)))
        bits, count = bits >> extra, count - extra
        symbol, used = _decode(bits, other_lookup, other_counts, other_symbols)
        bits, count = bits >> used, count - used
        if symbol < 0 or symbol > 29:
            return DAMAGED, n, (bits, count, byte)
        extra = _DISTANCE_EXTRA[symbol]
        distance = _DISTANCE_BASE[symbol] + np.int64(bits & ((np.uint64(1) << extra) - np.uint64(1)))
        bits, count = bits >> extra, count - extra
        source = output - distance
        if source < 0 or output + length > size:
            return DAMAGED, n, (bits, count, byte)
        n = _repeat(positions, values, n, source, source + length, distance)
        output += length


@helper
@no_type_check
def _stored(data, place, size, output, n, positions, values):
    """Copy one block that is not compressed; returns as ``_block``."""
    byte = np.int64(place[2]) - np.int64(place[1] >> np.uint64(3))
    place = (np.uint64(0), np.uint64(0), np.uint64(byte + 4))
    if byte + 4 > data.size:
        return DAMAGED, n, place
    length = np.int64(data[byte]) | np.int64(data[byte + 1]) << 8
    complement = np.int64(data[byte + 2]) | np.int64(data[byte + 3]) << 8
    byte += 4
    if length ^ complement != 0xFFFF or byte + length > data.size or output + length > size:
        return DAMAGED, n, place
    for index in range(length):
        if data[byte + index] != 0:
            positions[n] = output + index
            values[n] = data[byte + index]
            n += 1
    return output + length, n, (np.uint64(0), np.uint64(0), np.uint64(byte + length))


@helper
@no_type_check
def _checksum(size, n, positions, values):
    """Adler-32 of all bytes, of which only these are not zero."""
    a, b = 1, size % 65521
    for k in range(n):
        value = np.int64(values[k])
        a += value
        b += (size - positions[k]) * value
        if k & 0xFFFFF == 0:
            b %= 65521
    return (b % 65521) << 16 | a % 65521


@helper
@no_type_check
def inflate(data, size, positions, values, codes):
    """Inflate a zlib stream.

    Args:
        data: The stream, and at least sixteen bytes more.
        size: Bytes that it has to yield.
        positions: Gets the positions of the bytes that are not zero.
        values: Gets those bytes.
        codes: Space for the literal code, the distance code and the lengths of both.

    Returns:
        How many they are, or DAMAGED.
    """
    if data.size < 2 or data[0] & 15 != 8 or (np.int64(data[0]) << 8 | data[1]) % 31 or data[1] & 32:
        return DAMAGED
    literal, distances, lengths = codes
    bits, count, byte = np.uint64(0), np.uint64(0), np.uint64(2)
    output, n, is_last = 0, 0, False
    while not is_last:
        bits, count, byte = _refill(data, (bits, count, byte))
        is_last = bits & np.uint64(1) != 0
        kind = bits >> np.uint64(1) & np.uint64(3)
        bits, count = bits >> np.uint64(3), count - np.uint64(3)
        if kind == 0:
            output, n, (bits, count, byte) = _stored(data, (bits, count, byte), size, output, n, positions, values)
        elif kind == 3:
            return DAMAGED
        else:
            if kind == 1:
                _fixed_lengths(lengths)
                num_literals, num_distances = 288, 30
            else:
                num_literals, num_distances, (bits, count, byte) = _read_lengths(
                    data, (bits, count, byte), lengths, literal
                )
            both = num_literals + num_distances
            if num_literals == 0 or not (
                _build(lengths, 0, num_literals, literal) and _build(lengths, num_literals, both, distances)
            ):
                return DAMAGED
            output, n, (bits, count, byte) = _block(
                data, (bits, count, byte), size, output, n, positions, values, literal, distances
            )
        if output < 0:
            return DAMAGED
    end = np.int64(byte) - np.int64(count >> np.uint64(3))
    if output != size or end + 4 > data.size:
        return DAMAGED
    expected = 0
    for index in range(end, end + 4):
        expected = expected << 8 | np.int64(data[index])
    return n if expected == _checksum(size, n, positions, values) else DAMAGED
