"""The verbs of the command line, by name: each reads its words, calls the package and returns the exit code."""

import os

# Before pydantic is imported: its web addresses do not help at a terminal.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

from thingstuff.commands.data import data
from thingstuff.commands.exporting import export
from thingstuff.commands.networks import demo, evaluate, predict, train
from thingstuff.commands.scoring import compare, score
from thingstuff.commands.supplies import convert, recipes

__all__ = ["compare", "convert", "data", "demo", "evaluate", "export", "predict", "recipes", "score", "train"]
