"""The package as users have it, without what tests add."""

import dataclasses
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest

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
