"""Progress bars, shown only where somebody watches."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

console = Console(stderr=True)
"""Where progress and messages go; results go to standard output."""


def announce(text: str) -> None:
    """Write a line about the work that goes on, as it stands: no markup, no breaks."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def make_progress(*extra: TextColumn) -> Progress:
    """A progress bar with count, extra columns and time left; silent when standard error is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *extra,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Go through items and show how far it is."""
    with make_progress() as progress:
        yield from progress.track(items, description=description, total=total)
