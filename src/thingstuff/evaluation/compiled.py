"""Compiled code of the extra ``[fast]``: joint histograms of id maps, in memory or in PNG files.

Id maps are made of long horizontal runs of one id, and the row filters of PNG leave zero nearly everywhere else. So
nothing is done pixel by pixel: rows are decoded from runs to runs (``_row_*``), of both files at once, and the runs are
counted. A row's runs are ``starts`` and ``ids``, closed by ``starts[n] == width``; neighbouring runs differ in id.

Import this module through ``fast.load``, which decides where the machine code is kept.

Source: the filters are defined in section 9 of the PNG specification (W3C).
"""

from typing import Any, no_type_check

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

_inline: Any = numba.njit(inline="always")
_helper: Any = numba.njit(nogil=True)
_entry: Any = numba.njit(nogil=True, cache=True)

_EMPTY = np.uint64(2**64 - 1)
"""Marks a free row of the table of pairs; no pair of 24-bit ids has this key."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint32(0x7F7F7F)
_HIGH = np.uint32(0x808080)
DAMAGED = -1
"""Instead of a count: a row names a filter that PNG does not have."""
TABLE_FULL = -2
"""Instead of a count: more pairs of ids occur than the table holds."""


@intrinsic
@no_type_check
def _trailing_zeros(typing_context, word):
    """Number of zero bits below the lowest one; the word is not zero."""

    @no_type_check
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.uint64(numba.uint64), generate


# --- counting pairs ---


@_helper
@no_type_check
def _count(keys, table, truth_id, predicted_id, area, left, right, y):
    """Add a horizontal run to the table; False when the table is full.

    A row of the table is area, left, top, right, bottom.
    """
    key = np.uint64(truth_id) << np.uint64(24) | np.uint64(predicted_id)
    mask = np.uint64(keys.size - 1)
    row = (key * _MIX) >> np.uint64(32)
    for _ in range(keys.size):
        row &= mask
        if keys[row] == key:
            table[row, 0] += area
            table[row, 1] = min(table[row, 1], left)
            table[row, 3] = max(table[row, 3], right)
            table[row, 4] = y + 1
            return True
        if keys[row] == _EMPTY:
            keys[row] = key
            table[row, 0] = area
            table[row, 1] = left
            table[row, 2] = y
            table[row, 3] = right
            table[row, 4] = y + 1
            return True
        row += np.uint64(1)
    return False


@_helper
@no_type_check
def _collect(keys, table, found_keys, found):
    """Move the table's rows into ``found``, by ascending key, and empty the table."""
    n = 0
    for row in range(keys.size):
        if keys[row] != _EMPTY:
            found_keys[n] = keys[row]
            n += 1
    order = np.argsort(found_keys[:n])
    n = 0
    for row in range(keys.size):
        if keys[row] != _EMPTY:
            found[n] = table[row]
            keys[row] = _EMPTY
            n += 1
    found_keys[:n] = found_keys[:n][order]
    found[:n] = found[:n][order]
    return n


@_entry
@no_type_check
def count_maps(truth, predicted, keys, table, found_keys, found):
    """Joint histogram of two id maps of one size; returns the number of pairs, or TABLE_FULL."""
    height, width = truth.shape
    for y in range(height):
        left = 0
        while left < width:
            truth_id = truth[y, left]
            predicted_id = predicted[y, left]
            right = left + 1
            while right < width and truth[y, right] == truth_id and predicted[y, right] == predicted_id:
                right += 1
            if not _count(keys, table, truth_id, predicted_id, right - left, left, right, y):
                keys[:] = _EMPTY
                return TABLE_FULL
            left = right
    return _collect(keys, table, found_keys, found)


@_helper
@no_type_check
def _count_row(keys, table, starts, ids, other_starts, other_ids, width, y):
    i, j, left = 0, 0, 0
    while left < width:
        end, other_end = starts[i + 1], other_starts[j + 1]
        right = min(end, other_end)
        if not _count(keys, table, ids[i], other_ids[j], right - left, left, right, y):
            return False
        left = right
        i += end == right
        j += other_end == right
    return True


# --- decoding PNG rows ---


@_helper
@no_type_check
def _nonzero(words, rows, positions):
    """Positions of the bytes that are not zero; ``words`` are the same bytes in eights, without the last few."""
    n = 0
    for index in range(words.size):
        word = words[index]
        while word != 0:
            byte = _trailing_zeros(word) >> np.uint64(3)
            positions[n] = 8 * index + np.int64(byte)
            n += 1
            word &= ~(np.uint64(255) << (byte << np.uint64(3)))
    for position in range(8 * words.size, rows.size):
        if rows[position] != 0:
            positions[n] = position
            n += 1
    return n


@_inline
@no_type_check
def _pixel(rows, position):
    return (
        np.uint32(rows[position])
        | np.uint32(rows[position + 1]) << np.uint32(8)
        | np.uint32(rows[position + 2]) << np.uint32(16)
    )


@_inline
@no_type_check
def _add(a, b):
    """Sum of three channels, each modulo 256."""
    return ((a & _LOW) + (b & _LOW)) ^ ((a ^ b) & _HIGH)


@_inline
@no_type_check
def _mean(a, b):
    """Mean of three channels, each rounded down."""
    return (a & b) + (((a ^ b) >> np.uint32(1)) & _LOW)


@_helper
@no_type_check
def _paeth(left, up, up_left):
    """Of each channel, the neighbour nearest to ``left + up - up_left``."""
    predicted = np.uint32(0)
    for shift in (np.uint32(0), np.uint32(8), np.uint32(16)):
        a = np.int32((left >> shift) & np.uint32(255))
        b = np.int32((up >> shift) & np.uint32(255))
        c = np.int32((up_left >> shift) & np.uint32(255))
        to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - c - c)
        if to_a <= to_b and to_a <= to_c:
            nearest = a
        elif to_b <= to_c:
            nearest = b
        else:
            nearest = c
        predicted |= np.uint32(nearest) << shift
    return predicted


@_inline
@no_type_check
def _emit(starts, ids, n, x, value):
    """Begin a run at ``x`` unless the last one has the same id."""
    if n == 0 or ids[n - 1] != value:
        starts[n] = x
        ids[n] = value
        n += 1
    return n


@_helper
@no_type_check
def _row_none(rows, start, channels, width, starts, ids):
    n = 0
    for x in range(width):
        n = _emit(starts, ids, n, x, _pixel(rows, start + x * channels))
    return n


@_helper
@no_type_check
def _row_sub(rows, start, channels, width, columns, starts, ids):
    value = np.uint32(0)
    n = 0
    if columns[0] != 0:
        n = _emit(starts, ids, n, 0, value)
    k = 0
    while columns[k] < width:
        value = _add(value, _pixel(rows, start + columns[k] * channels))
        n = _emit(starts, ids, n, columns[k], value)
        k += 1
    return n


@_helper
@no_type_check
def _row_up(rows, start, channels, columns, above, above_ids, num_above, starts, ids):
    n, k = 0, 0
    for run in range(num_above):
        x, end, up = above[run], above[run + 1], above_ids[run]
        while columns[k] < end:
            if columns[k] > x:
                n = _emit(starts, ids, n, x, up)
            x = columns[k]
            n = _emit(starts, ids, n, x, _add(up, _pixel(rows, start + x * channels)))
            x += 1
            k += 1
        if x < end:
            n = _emit(starts, ids, n, x, up)
    return n


@_helper
@no_type_check
def _row_average(rows, start, channels, columns, above, above_ids, num_above, starts, ids):
    left = np.uint32(0)
    n, k = 0, 0
    for run in range(num_above):
        x, end, up = above[run], above[run + 1], above_ids[run]
        while x < end:
            left = _mean(left, up)
            if columns[k] == x:
                left = _add(left, _pixel(rows, start + x * channels))
                k += 1
            n = _emit(starts, ids, n, x, left)
            # Equal neighbours have themselves as mean: nothing happens until the next byte that is not zero.
            x = min(columns[k], end) if left == up else x + 1
    return n


@_helper
@no_type_check
def _row_paeth(rows, start, channels, columns, above, above_ids, num_above, starts, ids):
    left, up_left = np.uint32(0), np.uint32(0)
    n, k = 0, 0
    for run in range(num_above):
        x, end, up = above[run], above[run + 1], above_ids[run]
        left = up if left == up_left else _paeth(left, up, up_left)
        if columns[k] == x:
            left = _add(left, _pixel(rows, start + x * channels))
            k += 1
        n = _emit(starts, ids, n, x, left)
        # Inside a run of the row above, up equals up-left, so the left neighbour is predicted.
        while columns[k] < end:
            x = columns[k]
            left = _add(left, _pixel(rows, start + x * channels))
            n = _emit(starts, ids, n, x, left)
            k += 1
        up_left = up
    return n


@_helper
@no_type_check
def _columns(positions, first, last, start, channels, width, columns):
    """Columns of the pixels with a byte that is not zero, closed by ``width``."""
    n = 0
    for k in range(first, last):
        # Division by a constant is several times faster.
        offset = positions[k] - start
        column = offset // 3 if channels == 3 else offset // 4
        if n == 0 or columns[n - 1] != column:
            columns[n] = column
            n += 1
    columns[n] = width


@_helper
@no_type_check
def _decode_row(rows, y, channels, width, positions, first, num_positions, columns, above, above_ids, n, starts, ids):
    """Decode row ``y``; returns its number of runs (DAMAGED for an unknown filter) and the next row's ``first``."""
    start = y * (1 + width * channels) + 1
    last = first
    while last < num_positions and positions[last] < start + width * channels:
        last += 1
    kind = rows[start - 1]
    _columns(positions, first + (kind != 0), last, start, channels, width, columns)
    if kind == 0:
        n = _row_none(rows, start, channels, width, starts, ids)
    elif kind == 1:
        n = _row_sub(rows, start, channels, width, columns, starts, ids)
    elif kind == 2:
        n = _row_up(rows, start, channels, columns, above, above_ids, n, starts, ids)
    elif kind == 3:
        n = _row_average(rows, start, channels, columns, above, above_ids, n, starts, ids)
    elif kind == 4:
        n = _row_paeth(rows, start, channels, columns, above, above_ids, n, starts, ids)
    else:
        return DAMAGED, last
    starts[n] = width
    return n, last


@_entry
@no_type_check
def count_files(height, width, truth, predicted, runs, run_ids, columns, keys, table, found_keys, found):
    """Joint histogram of two filtered PNG pictures of one size.

    Args:
        height: Of both.
        width: Of both.
        truth: Of the true map: bytes, the same in words of eight, number of channels, space for as many positions.
        predicted: The same of the predicted map.
        runs: Space for four times ``width + 1`` starts.
        run_ids: Space for four times ``width + 1`` ids.
        columns: Space for ``width + 1`` columns.
        keys: Table of pairs: all _EMPTY; a power of two.
        table: Table of pairs: one row for each key.
        found_keys: Gets the pairs, true id times 2**24 plus predicted id, ascending.
        found: Gets their area, left, top, right, bottom.

    Returns:
        The number of pairs, DAMAGED or TABLE_FULL.
    """
    rows, words, channels, positions = truth
    other_rows, other_words, other_channels, other_positions = predicted
    num_positions = _nonzero(words, rows, positions)
    num_other_positions = _nonzero(other_words, other_rows, other_positions)
    # Above the first row everything is zero.
    for row in (0, 2):
        runs[row, 0], runs[row, 1], run_ids[row, 0] = 0, width, 0
    n, m, first, other_first = 1, 1, 0, 0
    for y in range(height):
        a, b = y & 1, 2 + (y & 1)
        new, other_new = 1 - a, 5 - b
        n, first = _decode_row(
            rows, y, channels, width, positions, first, num_positions, columns,
            runs[a], run_ids[a], n, runs[new], run_ids[new],
        )  # fmt: skip
        m, other_first = _decode_row(
            other_rows, y, other_channels, width, other_positions, other_first, num_other_positions, columns,
            runs[b], run_ids[b], m, runs[other_new], run_ids[other_new],
        )  # fmt: skip
        if n == DAMAGED or m == DAMAGED:
            keys[:] = _EMPTY
            return DAMAGED
        if not _count_row(keys, table, runs[new], run_ids[new], runs[other_new], run_ids[other_new], width, y):
            keys[:] = _EMPTY
            return TABLE_FULL
    return _collect(keys, table, found_keys, found)
