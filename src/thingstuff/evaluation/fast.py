"""The extra ``[fast]``: whether it is there, where its machine code is kept, and the memory it works in.

Machine code is made the first time on a computer (some seconds) and kept in the user's cache folder; from then on it is
loaded in a fraction of a second. Without the extra, all functions of the package give the same results more slowly.
"""

import hashlib
import importlib
import importlib.util
import itertools
import os
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from thingstuff.evaluation.png import PackedPng

_TABLE = 1024
"""Pairs of ids that the table of a new workspace holds; it grows when a picture has more."""
_BUSY = 1000
"""Pairs of maps in memory after which the time for loading is won back."""
_calls = itertools.count()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Fast:
    """The loaded extra.

    Attributes:
        compiled: ``thingstuff.evaluation.compiled``.
        seconds: Processor time that loading, or the first time compiling, took.
    """

    compiled: ModuleType
    seconds: float


def is_installed() -> bool:
    """Whether ``load`` would find the extra, without loading it."""
    return importlib.util.find_spec("numba") is not None


def load() -> Fast | None:
    """Load the extra, compiling it if this is the first time; None if it is not installed."""
    with _lock:
        return _load()


def load_when_busy() -> Fast | None:
    """``load`` from the call on after which loading is worth while, until then None."""
    return load() if next(_calls) >= _BUSY else None


@cache
def _load() -> Fast | None:
    started = time.process_time()
    try:
        config: Any = importlib.import_module("numba.core.config")
    except ImportError:
        return None
    configured = config.CACHE_DIR
    # Numba reads the folder where functions are declared. Its own choice is __pycache__ beside the package, which is
    # swept at every upgrade and often not writable.
    config.CACHE_DIR = configured or str(_cache_folder())
    try:
        compiled = importlib.import_module("thingstuff.evaluation.compiled")
    finally:
        config.CACHE_DIR = configured
    extra = Fast(compiled, 0.0)
    pixels = np.zeros((1, 4), dtype=np.int32)
    count_maps(extra, pixels, pixels)
    stream = np.frombuffer(zlib.compress(bytes(4)) + bytes(16), dtype=np.uint8)
    png = PackedPng((1, 1), 3, stream)
    count_files(extra, png, png)
    return Fast(compiled, time.process_time() - started)


def _cache_folder() -> Path:
    """A folder for this version of the code: numba looks only at the age of the file whose function is called."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("compiled", "compiled_inflate"))
    return base / "thingstuff" / hashlib.sha256(b"".join(sources)).hexdigest()[:12]


def _code_space() -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], np.ndarray]:
    """Memory for the literal and the distance code of a deflated block, and for the lengths of both."""
    literal, distances = (
        (np.empty(1024, np.int16), *(np.empty(n, np.int64) for n in (16, 320, 17, 17))) for _ in range(2)
    )
    return literal, distances, np.empty(320, dtype=np.int64)


@dataclass
class _Workspace(threading.local):
    """Memory that one thread uses again and again: asking for fresh memory would cost half as much as the work."""

    pairs: int = 0
    width: int = -1
    num_bytes: int = -1
    codes: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], np.ndarray] = field(default_factory=_code_space)
    keys: np.ndarray = field(init=False)
    table: np.ndarray = field(init=False)
    found_keys: np.ndarray = field(init=False)
    found: np.ndarray = field(init=False)
    rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] = field(init=False)
    unpacked: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] = field(init=False)

    def hold_pairs(self, pairs: int) -> None:
        """Have room for that many pairs of ids, a power of two."""
        if pairs > self.pairs:
            self.pairs = pairs
            self.keys = np.full(pairs, 2**64 - 1, dtype=np.uint64)
            self.table = np.empty((pairs, 5), dtype=np.int64)
            self.found_keys = np.empty(pairs, dtype=np.uint64)
            self.found = np.empty((pairs, 5), dtype=np.int64)

    def hold_picture(self, width: int, num_bytes: int) -> None:
        """Have room for the rows and the bytes of two pictures."""
        if width > self.width:
            self.width = width
            self.rows = (
                np.empty((4, width + 1), dtype=np.int32),
                np.empty((4, width + 1), dtype=np.uint32),
                np.empty(width + 1, dtype=np.int32),
                np.empty(width + 1, dtype=np.uint32),
            )
        if num_bytes > self.num_bytes:
            self.num_bytes = num_bytes
            positions, values = np.empty((2, num_bytes), dtype=np.int32), np.empty((2, num_bytes), dtype=np.uint8)
            self.unpacked = ((positions[0], values[0]), (positions[1], values[1]))

    def sorted_pairs(self, n: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, "n 5"]]:
        """The pairs found, by ascending ids."""
        keys = self.found_keys[:n].astype(np.int64)
        order = keys.argsort()
        return keys[order], self.found[:n][order]


_workspace = _Workspace()


def count_maps(
    extra: Fast, truth: Int32[np.ndarray, "H W"], predicted: Int32[np.ndarray, "H W"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, "n 5"]]:
    """Joint histogram of two id maps.

    Args:
        extra: The loaded extra.
        truth: Ids below 2**24.
        predicted: Ids below 2**24.

    Returns:
        The pairs as true id times 2**24 plus predicted id, ascending; area, left, top, right and bottom of each.
    """
    # The compiler takes other layouts, and arrays that may not be written, for other types and compiles once more.
    truth, predicted = (np.require(ids, requirements=("C", "W")) for ids in (truth, predicted))
    space = _workspace
    space.hold_pairs(_TABLE)
    while True:
        n = extra.compiled.count_maps(truth, predicted, space.keys, space.table, space.found_keys, space.found)
        if n != extra.compiled.TABLE_FULL:
            return space.sorted_pairs(n)
        space.hold_pairs(4 * space.pairs)


def count_files(
    extra: Fast, truth: PackedPng, predicted: PackedPng
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, "n 5"]] | None:
    """Joint histogram of two PNG pictures of one size, as ``count_maps``; None if one of them is damaged."""
    height, width = truth.size
    space = _workspace
    space.hold_pairs(_TABLE)
    space.hold_picture(width, max(truth.num_bytes, predicted.num_bytes))
    pictures = tuple(
        (png.stream, png.channels, *unpacked) for png, unpacked in zip((truth, predicted), space.unpacked, strict=True)
    )
    while True:
        n = extra.compiled.count_files(
            height, width, *pictures, space.codes, space.rows, space.keys, space.table, space.found_keys, space.found
        )
        if n == extra.compiled.DAMAGED:
            return None
        if n != extra.compiled.TABLE_FULL:
            return space.sorted_pairs(n)
        space.hold_pairs(4 * space.pairs)
