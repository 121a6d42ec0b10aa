"""Compiled code of the extra ``[fast]``: joint histograms of id maps, in memory or in PNG files.

Id maps are made of long horizontal runs of one id, and the row filters of PNG leave zero nearly everywhere else. So
nothing is done pixel by pixel: rows are decoded from runs to runs (``_row_*``), of both files at once, and the runs are
counted. A row's runs are ``starts`` and ``ids``, closed by ``starts[n] == width``; neighbouring runs differ in id.

Import this module through ``fast.load``, which decides where the machine code is kept.

Source: the filters are defined in section 9 of the PNG specification (W3C).
"""

from typing import Any, no_type_check

import numpy as np

from thingstuff.evaluation.compiled_inflate import DAMAGED, helper, inflate, njit

_entry: Any = njit(nogil=True, cache=True, _nrt=False)

_EMPTY = np.uint64(2**64 - 1)
"""Marks a free row of the table of pairs; no pair of 24-bit ids has this key."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint32(0x7F7F7F)
_HIGH = np.uint32(0x808080)
TABLE_FULL = -2
"""Instead of a count: more pairs of ids occur than the table holds."""


# --- counting pairs ---


@helper
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


@helper
@no_type_check
def _collect(keys, table, found_keys, found):
    """Move the table's rows into ``found`` and empty the table."""
    n = 0
    for row in range(keys.size):
        if keys[row] != _EMPTY:
            found_keys[n] = keys[row]
            for column in range(5):
                found[n, column] = table[row, column]
            keys[row] = _EMPTY
            n += 1
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
            # Sixteen at once as long as all belong to the run: this compiles to vector instructions.
            while right + 16 <= width:
                different = np.int32(0)
                for x in range(right, right + 16):
                    different |= (truth[y, x] ^ truth_id) | (predicted[y, x] ^ predicted_id)
                if different != 0:
                    break
                right += 16
            while right < width and truth[y, right] == truth_id and predicted[y, right] == predicted_id:
                right += 1
            if not _count(keys, table, truth_id, predicted_id, right - left, left, right, y):
                keys[:] = _EMPTY
                return TABLE_FULL
            left = right
    return _collect(keys, table, found_keys, found)


@helper
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


@helper
@no_type_check
def _add(a, b):
    """Sum of three channels, each modulo 256."""
    return ((a & _LOW) + (b & _LOW)) ^ ((a ^ b) & _HIGH)


@helper
@no_type_check
def _mean(a, b):
    """Mean of three channels, each rounded down."""
    return (a & b) + (((a ^ b) >> np.uint32(1)) & _LOW)


@helper
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


@helper
@no_type_check
def _emit(starts, ids, n, x, value):
    """Begin a run at ``x`` unless the last one has the same id."""
    if n == 0 or ids[n - 1] != value:
        starts[n] = x
        ids[n] = value
        n += 1
    return n


@helper
@no_type_check
def _row_none(width, columns, residuals, starts, ids):
    n, k, x = 0, 0, 0
    while x < width:
        if columns[k] > x:
            n = _emit(starts, ids, n, x, np.uint32(0))
            x = columns[k]
        else:
            n = _emit(starts, ids, n, x, residuals[k])
            x += 1
            k += 1
    return n


@helper
@no_type_check
def _row_sub(width, columns, residuals, starts, ids):
    value = np.uint32(0)
    n, k = 0, 0
    if columns[0] != 0:
        n = _emit(starts, ids, n, 0, value)
    while columns[k] < width:
        value = _add(value, residuals[k])
        n = _emit(starts, ids, n, columns[k], value)
        k += 1
    return n


@helper
@no_type_check
def _row_up(columns, residuals, above, above_ids, num_above, starts, ids):
    n, k = 0, 0
    for run in range(num_above):
        x, end, up = above[run], above[run + 1], above_ids[run]
        while columns[k] < end:
            if columns[k] > x:
                n = _emit(starts, ids, n, x, up)
            n = _emit(starts, ids, n, columns[k], _add(up, residuals[k]))
            x = columns[k] + 1
            k += 1
        if x < end:
            n = _emit(starts, ids, n, x, up)
    return n


@helper
@no_type_check
def _row_average(columns, residuals, above, above_ids, num_above, starts, ids):
    left = np.uint32(0)
    n, k = 0, 0
    for run in range(num_above):
        x, end, up = above[run], above[run + 1], above_ids[run]
        while x < end:
            left = _mean(left, up)
            if columns[k] == x:
                left = _add(left, residuals[k])
                k += 1
            n = _emit(starts, ids, n, x, left)
            # Equal neighbours have themselves as mean: nothing happens until the next residual.
            x = min(columns[k], end) if left == up else x + 1
    return n


@helper
@no_type_check
def _row_paeth(columns, residuals, above, above_ids, num_above, starts, ids):
    left, up_left = np.uint32(0), np.uint32(0)
    n, k = 0, 0
    for run in range(num_above):
        x, end, up = above[run], above[run + 1], above_ids[run]
        left = up if left == up_left else _paeth(left, up, up_left)
        if columns[k] == x:
            left = _add(left, residuals[k])
            k += 1
        n = _emit(starts, ids, n, x, left)
        # Inside a run of the row above, up equals up-left, so the left neighbour is predicted.
        while columns[k] < end:
            left = _add(left, residuals[k])
            n = _emit(starts, ids, n, columns[k], left)
            k += 1
        up_left = up
    return n


@helper
@no_type_check
def _residuals(positions, values, first, last, start, channels, width, columns, residuals):
    """Column and value of the filtered pixels that are not zero, closed by the column ``width``."""
    n = 0
    for k in range(first, last):
        offset = positions[k] - start
        # Division by a constant is several times faster.
        column = offset // 3 if channels == 3 else offset // 4
        if n == 0 or columns[n - 1] != column:
            columns[n] = column
            residuals[n] = 0
            n += 1
        # A fourth channel is shifted out: alpha says nothing about ids.
        residuals[n - 1] |= np.uint32(values[k]) << np.uint32(8 * (offset - channels * column)) & np.uint32(0xFFFFFF)
    columns[n] = width


@helper
@no_type_check
def _decode_row(y, width, channels, picture, first, columns, residuals, above, above_ids, n, starts, ids):
    """Decode row ``y``; returns its number of runs (DAMAGED for an unknown filter) and the next row's ``first``."""
    positions, values, num_positions = picture
    start = y * (1 + width * channels) + 1
    kind = 0
    if first < num_positions and positions[first] == start - 1:
        kind = values[first]
        first += 1
    last = first
    while last < num_positions and positions[last] < start + width * channels:
        last += 1
    _residuals(positions, values, first, last, start, channels, width, columns, residuals)
    if kind == 0:
        n = _row_none(width, columns, residuals, starts, ids)
    elif kind == 1:
        n = _row_sub(width, columns, residuals, starts, ids)
    elif kind == 2:
        n = _row_up(columns, residuals, above, above_ids, n, starts, ids)
    elif kind == 3:
        n = _row_average(columns, residuals, above, above_ids, n, starts, ids)
    elif kind == 4:
        n = _row_paeth(columns, residuals, above, above_ids, n, starts, ids)
    else:
        return DAMAGED, last
    starts[n] = width
    return n, last


@_entry
@no_type_check
def count_files(height, width, truth, predicted, codes, row_space, keys, table, found_keys, found):
    """Joint histogram of two packed PNG pictures of one size.

    Args:
        height: Of both.
        width: Of both.
        truth: Of the true map: zlib stream, number of channels, space for as many positions and values as bytes.
        predicted: The same of the predicted map.
        codes: Space for the codes of ``inflate``.
        row_space: Space for four rows of starts and of ids, and for one of columns and of residuals.
        keys: Table of pairs: all _EMPTY; a power of two.
        table: Table of pairs: one row for each key.
        found_keys: Gets the pairs, true id times 2**24 plus predicted id.
        found: Gets their area, left, top, right, bottom.

    Returns:
        The number of pairs, DAMAGED or TABLE_FULL.
    """
    data, channels, positions, values = truth
    num_positions = inflate(data, height * (1 + width * channels), positions, values, codes)
    other_data, other_channels, other_positions, other_values = predicted
    num_others = inflate(other_data, height * (1 + width * other_channels), other_positions, other_values, codes)
    if num_positions == DAMAGED or num_others == DAMAGED:
        return DAMAGED
    picture = (positions, values, num_positions)
    other_picture = (other_positions, other_values, num_others)
    starts, ids, columns, residuals = row_space
    # Above the first row everything is zero.
    for row in (0, 2):
        starts[row, 0], starts[row, 1], ids[row, 0] = 0, width, 0
    n, m, first, other_first = 1, 1, 0, 0
    for y in range(height):
        old, new = y & 1, 1 - (y & 1)
        n, first = _decode_row(
            y, width, channels, picture, first, columns, residuals, starts[old], ids[old], n, starts[new], ids[new]
        )
        old, new = old + 2, new + 2
        m, other_first = _decode_row(
            y, width, other_channels, other_picture, other_first, columns, residuals,
            starts[old], ids[old], m, starts[new], ids[new],
        )  # fmt: skip
        counted = n != DAMAGED and m != DAMAGED
        if not counted or not _count_row(keys, table, starts[new - 2], ids[new - 2], starts[new], ids[new], width, y):
            keys[:] = _EMPTY
            return TABLE_FULL if counted else DAMAGED
    return _collect(keys, table, found_keys, found)
