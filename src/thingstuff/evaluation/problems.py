"""What is wrong with files that are scored: an error, or, where the caller is lenient, a warning that is counted."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from thingstuff.errors import InputError


@dataclass(frozen=True, slots=True)
class CountedWarning:
    """Something wrong that did not stop the scoring.

    Attributes:
        kind: What it is, in a few words, the same for all that is counted together.
        count: How often it occurred.
        example: The first occurrence: file, segment and what was done about it.
    """

    kind: str
    count: int
    example: str


@dataclass
class Problems:
    """Collects what is wrong.

    Attributes:
        lenient: Mend what can be mended instead of stopping.
        found: Kind and description of each warning so far.
    """

    lenient: bool = False
    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, kind: str, fault: str, remedy: str, mending: str) -> None:
        """Something is wrong that would falsify the numbers.

        Args:
            kind: See ``CountedWarning``.
            fault: File, segment and what is wrong.
            remedy: What the user has to do.
            mending: What lenient scoring does instead, for example ``recounts it``.

        Raises:
            InputError: Unless lenient.
        """
        if not self.lenient:
            raise InputError(f"{fault}; {remedy} (lenient scoring {mending})")
        self.note(kind, f"{fault}: lenient scoring {mending}")

    def note(self, kind: str, fault: str) -> None:
        """Something is wrong that the numbers do not depend on."""
        self.found.append((kind, fault))


def count_warnings(found: Iterable[tuple[str, str]]) -> tuple[CountedWarning, ...]:
    """Warnings of a kind as one, in the order of their first occurrence."""
    examples: dict[str, str] = {}
    counts: dict[str, int] = {}
    for kind, fault in found:
        examples.setdefault(kind, fault)
        counts[kind] = counts.get(kind, 0) + 1
    return tuple(CountedWarning(kind, counts[kind], example) for kind, example in examples.items())
