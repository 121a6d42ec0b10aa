"""The package as users have it, without what tests add; and graphs run by hand."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jaxtyping
import pytest
import torch

from thingstuff import structures
from thingstuff.model import rpn


@contextmanager
def as_in_production() -> Iterator[None]:
    """Shape checks, which only tests have, are taken out: exporters cannot see through them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for record in (*vars(structures).values(), *vars(rpn).values()):
            if dataclasses.is_dataclass(record) and isinstance(record, type):
                patch.setattr(record, "__init__", inspect.unwrap(record.__init__))
        yield


@contextmanager
def loops_of_python() -> Iterator[None]:
    """Loops of graphs are run by Python, so that nothing has to be compiled for each call."""

    def while_loop(goes_on: Callable[..., bool], step: Callable[..., tuple], state: tuple) -> tuple:
        while goes_on(*state):
            state = step(*state)
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "while_loop", while_loop)
        yield
