"""Command lines, run within the tests' own process."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from thingstuff import cli


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def assert_refused(self, *parts: str) -> None:
        """Wrong input: exit code 2, and one line that has all ``parts``."""
        assert self.code == 2
        assert self.err.count("\n") == 1
        assert self.err.startswith("thingstuff: ")
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err


Shell = Callable[..., Finished]
"""Runs a command line; further arguments are words that need no quotes."""


def make_shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell whose commands print into ``capsys``."""

    def run(line: str, *more: str | Path) -> Finished:
        try:
            code = cli.main([*shlex.split(line), *map(str, more)])
        except SystemExit as stop:  # how the parser of options ends
            code = stop.code
        assert isinstance(code, int)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run
