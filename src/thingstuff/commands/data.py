"""The verb for annotated pictures: check, convert, prepare, show."""

from collections.abc import Callable
from importlib import import_module

from thingstuff.cli import SUCCESS
from thingstuff.commands.terminal import say
from thingstuff.errors import InputError

ACTIONS = {
    "check": ("data_check", "find what is wrong in a data set, and repair what is safe to repair"),
    "convert": ("data_convert", "make a data set from what an annotation tool exports"),
    "prepare": ("data_prepare", "get a published data set ready: which files, from where, and what is built of them"),
    "show": ("data_check", "look at pictures with their annotations, on a sheet or a page"),
}
"""What follows the verb: the module of ``thingstuff.commands`` with the function of this name, and what it does."""


def data(words: list[str]) -> int:
    """Check, convert, prepare or show annotated pictures."""
    listed = "\n".join(f"  {action:10s}{text}" for action, (_, text) in ACTIONS.items())
    if words[:1] in (["--help"], ["-h"]):
        say(f"usage: thingstuff data {'|'.join(ACTIONS)} ...\n\nAnnotated pictures of your own.\n\n{listed}\n")
        say("`thingstuff data ACTION --help` lists what each takes.")
        return SUCCESS
    if not words or words[0] not in ACTIONS:
        given = f"there is no action {words[0]!r}" if words else "an action is missing"
        raise InputError(f"data: {given}; write `thingstuff data` and one of {', '.join(ACTIONS)}")
    module = import_module(f"thingstuff.commands.{ACTIONS[words[0]][0]}")
    action: Callable[[list[str]], int] = getattr(module, words[0])
    return action(words[1:])
