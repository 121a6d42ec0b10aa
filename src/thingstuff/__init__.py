"""Panoptic segmentation that installs, trains, predicts and scores.

Example:
    >>> import thingstuff as ts
    >>> model = ts.load("tiny-scenes")
    >>> result = model("street.jpg")  # doctest: +SKIP
    >>> result.overlay().save("street_panoptic.png")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thingstuff.errors import InputError
    from thingstuff.evaluation.files import score
    from thingstuff.predict import Model, load
    from thingstuff.recipe import Recipe, derive
    from thingstuff.result import Result
    from thingstuff.structures import Panoptic, Segment

__version__ = "0.1.0"

_HOMES = {
    "InputError": "errors",
    "Model": "predict",
    "Panoptic": "structures",
    "Recipe": "recipe",
    "Result": "result",
    "Segment": "structures",
    "derive": "recipe",
    "load": "predict",
    "score": "evaluation.files",
}

__all__ = ["InputError", "Model", "Panoptic", "Recipe", "Result", "Segment", "__version__", "derive", "load", "score"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import thingstuff` costs nothing and scoring needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thingstuff' has no attribute {name!r}")
    return getattr(import_module(f"thingstuff.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
