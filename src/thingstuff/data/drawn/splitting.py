"""Which pictures are learned from and which are judged on."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from thingstuff.errors import InputError

_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """How pictures are put into splits; without any choice as the source says, or all into ``train``.

    Attributes:
        name: All pictures go into this split.
        val_share: This share of the pictures goes into ``val``, the others into ``train``.
        seed: Another number, other pictures.
    """

    name: str | None = None
    val_share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise InputError(f"--split {self.name!r}: write letters, digits, '-' and '_', for example train")
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise InputError(f"--val-share {self.val_share}: write a share between 0 and 1, for example 0.2")
        if self.name is not None and self.val_share is not None:
            raise InputError("--split and --val-share exclude each other; keep one of them")


def assign_splits(names: Sequence[str], of_source: Sequence[str | None], choice: SplitChoice) -> list[str]:
    """The split of every picture.

    With ``val_share`` a picture's split follows from its name and the seed alone, so pictures stay where they are when
    others are added; of two or more pictures each split gets at least one.

    Args:
        names: File name of each picture.
        of_source: The split that the source puts it in.
        choice: What was asked for.
    """
    if choice.name is not None:
        return [choice.name] * len(names)
    if choice.val_share is None:
        return [(split and split_name(split)) or "train" for split in of_source]
    shares = [_share(name, choice.seed) for name in names]
    splits = ["val" if share < choice.val_share else "train" for share in shares]
    if len(names) > 1 and len(set(splits)) == 1:
        alone = shares.index(max(shares) if splits[0] == "val" else min(shares))
        splits[alone] = "train" if splits[0] == "val" else "val"
    return splits


def _share(name: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") / 2**64


def split_name(word: str) -> str | None:
    """The split that a tool means: ``valid`` and ``val2017`` are ``val``; ``default``, as CVAT writes it, is none."""
    plain = word.lower()
    year = re.fullmatch(r"(train|val|test)(19|20)\d\d", plain)
    name = year[1] if year else _NAMES.get(plain, word)
    return None if plain in ("", "default") else re.sub(r"[^A-Za-z0-9_.-]", "_", name)
