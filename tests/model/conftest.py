"""Small random networks that the tests of the model share."""

import os
from collections.abc import Callable

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")

from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import tiny_scenes


@pytest.fixture(scope="session")
def label_set() -> Callable[[int, int], LabelSet]:
    """Makes label sets of so many stuff and thing classes."""

    def make(num_stuff: int, num_things: int) -> LabelSet:
        count = num_stuff + num_things
        return LabelSet(tuple(Category(i + 1, f"class {i}", i >= num_stuff, (i, i, i)) for i in range(count)))

    return make


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """The network of ``tiny_scenes`` with few channels, proposals and detections."""
    return derive(
        tiny_scenes(),
        name="small",
        model__neck__channels=16,
        model__semantic__channels=16,
        model__region__box_head__width=16,
        model__region__mask_head__channels=16,
        model__region__rpn__candidates_per_level=(60, 40),
        model__region__rpn__num_proposals=(60, 40),
        model__region__num_detections=12,
    )


@pytest.fixture(scope="session")
def make_network(small_recipe: Recipe, label_set: Callable[[int, int], LabelSet]) -> Callable[..., PanopticSegmenter]:
    """Builds the small network for 3 stuff and 2 thing classes, with changes to its recipe; the same one each time."""

    def make(num_stuff: int = 3, num_things: int = 2, **changes: object) -> PanopticSegmenter:
        torch.manual_seed(0)
        recipe = derive(small_recipe, **changes)
        return build_network(recipe, label_set(num_stuff, num_things)).eval()

    return make
