"""Small random networks that the tests of the model share."""

from collections.abc import Callable

import pytest
import torch

from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import tiny_scenes


def label_set(num_stuff: int, num_things: int) -> LabelSet:
    """So many stuff and thing classes."""
    count = num_stuff + num_things
    return LabelSet(tuple(Category(i + 1, f"class {i}", i >= num_stuff, (i, i, i)) for i in range(count)))


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
def make_labels() -> Callable[[int, int], LabelSet]:
    """Makes a label set of so many stuff and thing classes."""
    return label_set


@pytest.fixture(scope="session")
def make_network(small_recipe: Recipe) -> Callable[..., PanopticSegmenter]:
    """Builds the small network with changes to its recipe; equal calls give equal weights."""

    def make(num_stuff: int = 3, num_things: int = 2, **changes: object) -> PanopticSegmenter:
        torch.manual_seed(0)
        return build_network(derive(small_recipe, **changes), label_set(num_stuff, num_things)).eval()

    return make
