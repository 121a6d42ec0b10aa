"""What all verbs share: reading options, and speaking to people and to programs."""

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, FlagCreatePairsOff

Options = TypeVar("Options")


def parse(options: Callable[..., Options], verb: str, description: str, words: list[str]) -> Options:
    """Read the words behind a verb; a wrong one, or ``--help``, ends the program."""
    config = (FlagCreatePairsOff, AvoidSubcommands)
    return tyro.cli(options, prog=f"thingstuff {verb}", description=description, args=words, config=config)


def say(text: str) -> None:
    """Write a line of what was asked for."""
    sys.stdout.write(f"{text}\n")


def say_json(value: Any) -> None:
    """The same for a program."""
    say(json.dumps(value, indent=2))


def warn(text: str) -> None:
    """Write a line that is not what was asked for."""
    sys.stderr.write(f"thingstuff: {text}\n")
