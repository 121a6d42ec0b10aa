"""Outputs of a checkpoint find the classes of another label set by name."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.classes import cityscapes_labels, coco_labels
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import upsnet_r101_cityscapes
from thingstuff.training.transfer import Transfer, class_outputs, transfer

HEADS = (
    "region.box_head.outputs.classes",
    "region.box_head.outputs.deltas",
    "region.mask_head.predictor",
    "semantic.predictor",
)


def label_set(stuff: str, things: str) -> LabelSet:
    """Classes by their names, in that order."""
    names = [(name, False) for name in stuff.split()] + [(name, True) for name in things.split()]
    return LabelSet(tuple(Category(index, name, isthing, (0, 0, 0)) for index, (name, isthing) in enumerate(names)))


OLD = label_set("sky grass water", "cat dog cow")
NEW = label_set("grass lamp sky", "cow horse cat person")


def weights(recipe: Recipe, labels: LabelSet, width: int = 5) -> dict[str, Tensor]:
    """Tensors of the heads, row ``i`` full of ``100 + i``, and two others."""
    tensors = {"neck.bias": torch.full((4,), 7.0), f"only.{width}": torch.ones(2)}
    for layer, outputs in class_outputs(recipe.model, labels).items():
        rows = torch.arange(len(outputs)) + 100.0
        tensors[f"{layer}.weight"] = rows[:, None].expand(-1, width).clone()
        tensors[f"{layer}.bias"] = rows
    return tensors


def move(recipe: Recipe, old: LabelSet, new: LabelSet, target: Recipe | None = None, width: int = 5) -> Transfer:
    target = target or recipe
    own = {name: torch.zeros_like(tensor) for name, tensor in weights(target, new, width).items()}
    return transfer(Checkpoint(weights(recipe, old), recipe, old), own, target, new, "old.safetensors")


def separate(recipe: Recipe) -> Recipe:
    return derive(recipe, model__semantic__things="separate", model__fusion=None)


# --- which output is which class ---


def test_outputs_have_the_shapes_of_the_network(tiny_recipe: Recipe) -> None:
    agnostic = derive(tiny_recipe, model__region__box_head__class_agnostic_boxes=True)
    boxes_alone = derive(tiny_recipe, model__region__mask_head=None, model__fusion=None)
    for recipe in (tiny_recipe, separate(tiny_recipe), agnostic, boxes_alone):
        for labels in (OLD, label_set("sky", ""), label_set("", "cat")):
            state = build_network(recipe, labels).state_dict()
            found = {layer: len(state[f"{layer}.weight"]) for layer in HEADS if f"{layer}.weight" in state}
            if recipe is agnostic and labels.num_things:
                assert found.pop("region.box_head.outputs.deltas") == 4
            outputs = class_outputs(recipe.model, labels)
            assert found == {layer: len(stand_for) for layer, stand_for in outputs.items()}


# --- what is taken ---


def test_known_classes_bring_their_outputs(tiny_recipe: Recipe) -> None:
    taken = move(tiny_recipe, OLD, NEW).weights
    # Ours: cow horse cat person and background; theirs: cat dog cow and background.
    assert taken["region.box_head.outputs.classes.bias"][[0, 2, 4]].tolist() == [102, 100, 103]
    assert taken["region.mask_head.predictor.bias"][[0, 2]].tolist() == [102, 100]
    deltas = taken["region.box_head.outputs.deltas.weight"]
    assert deltas[0:4, 0].tolist() == [108, 109, 110, 111]
    assert deltas[8:12, 3].tolist() == [100, 101, 102, 103]
    # Ours: grass lamp sky and things; theirs: sky grass water and things.
    assert taken["semantic.predictor.weight"][[0, 2, 3], 4].tolist() == [101, 100, 103]
    assert taken["neck.bias"].tolist() == [7, 7, 7, 7]
    assert "only.5" in taken


def test_new_classes_are_drawn_like_the_old(tiny_recipe: Recipe) -> None:
    """Mean and deviation are those of the old classes: background and the merged things do not count."""
    torch.manual_seed(3)
    old, new = label_set("sky", "cat dog"), label_set("sky", "cat " + " ".join(f"new{n}" for n in range(400)))
    checkpoint = Checkpoint(weights(tiny_recipe, old, 50), tiny_recipe, old)
    for layer in HEADS[:3]:
        of_classes = 2 * (4 if layer == HEADS[1] else 1)
        checkpoint.weights[f"{layer}.weight"][:of_classes] = 2 + 0.5 * torch.randn(of_classes, 50)
        checkpoint.weights[f"{layer}.weight"][of_classes:] = 1e6
    own = {name: torch.zeros_like(tensor) for name, tensor in weights(tiny_recipe, new, 50).items()}
    taken = transfer(checkpoint, own, tiny_recipe, new, "old").weights
    for layer in HEADS[:3]:
        of_classes = 2 * (4 if layer == HEADS[1] else 1)
        known = checkpoint.weights[f"{layer}.weight"][:of_classes]
        drawn = taken[f"{layer}.weight"][of_classes // 2 : -1]
        assert drawn.mean().item() == pytest.approx(known.mean().item(), abs=0.02)
        assert drawn.std().item() == pytest.approx(known.std(correction=0).item(), abs=0.02)
    assert torch.equal(taken["region.box_head.outputs.classes.weight"][-1], torch.full((50,), 1e6))


def test_one_old_class_has_no_deviation(tiny_recipe: Recipe) -> None:
    taken = move(tiny_recipe, label_set("sky", "cat"), label_set("sky", "dog cat")).weights
    assert taken["region.mask_head.predictor.bias"].tolist() == [100, 100]


def test_the_seed_decides_what_is_drawn(tiny_recipe: Recipe) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(move(tiny_recipe, OLD, NEW).weights["region.mask_head.predictor.weight"][1])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_same_classes_change_nothing(tiny_recipe: Recipe) -> None:
    other_ids = LabelSet(tuple(replace(category, id=category.id + 50) for category in OLD.categories))
    before = torch.random.get_rng_state()
    found = move(tiny_recipe, OLD, other_ids)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.lines == ()
    for name, tensor in weights(tiny_recipe, OLD).items():
        assert torch.equal(found.weights[name], tensor), name


def test_as_many_other_classes_are_not_mistaken_for_the_old(tiny_recipe: Recipe) -> None:
    found = move(tiny_recipe, OLD, label_set("ice sand mud", "ant bee fly"))
    assert found.weights.keys() == {"neck.bias", "only.5"}
    assert found.lines == ()


@given(st.permutations(range(3)), st.permutations(range(3)))
def test_the_order_does_not_matter(tiny_recipe: Recipe, stuff: list[int], things: list[int]) -> None:
    order = [*stuff, *(3 + index for index in things)]
    taken = move(tiny_recipe, OLD, LabelSet(tuple(OLD.categories[index] for index in order))).weights
    assert taken["region.mask_head.predictor.bias"].tolist() == [100 + index for index in things]
    assert taken["semantic.predictor.bias"].tolist() == [*(100 + index for index in stuff), 103]


def test_outputs_of_another_width_stay_out(tiny_recipe: Recipe) -> None:
    taken = move(tiny_recipe, OLD, NEW, width=6).weights
    assert taken.keys() == {"neck.bias"}


def test_boxes_for_all_classes_have_none_of_their_own(tiny_recipe: Recipe) -> None:
    recipe = derive(tiny_recipe, model__region__box_head__class_agnostic_boxes=True)
    deltas = {"region.box_head.outputs.deltas.bias": torch.arange(4.0)}
    checkpoint = Checkpoint(weights(recipe, OLD) | deltas, recipe, OLD)
    taken = transfer(checkpoint, weights(recipe, NEW) | deltas, recipe, NEW, "old").weights
    assert taken["region.box_head.outputs.deltas.bias"].tolist() == [0, 1, 2, 3]


def test_separate_and_merged_things_share_stuff_alone(tiny_recipe: Recipe) -> None:
    apart = separate(tiny_recipe)
    merged = move(apart, OLD, NEW, target=tiny_recipe).weights["semantic.predictor.bias"]
    assert merged[[0, 2]].tolist() == [101, 100]
    assert merged[3] not in (103, 104, 105)
    parted = move(tiny_recipe, OLD, NEW, target=apart).weights["semantic.predictor.bias"]
    assert parted[[0, 2]].tolist() == [101, 100]
    assert 103 not in parted
    assert move(apart, OLD, NEW).weights["semantic.predictor.bias"][[0, 2, 3, 5]].tolist() == [101, 100, 105, 103]


def test_a_thing_here_may_be_stuff_there(tiny_recipe: Recipe) -> None:
    apart = separate(tiny_recipe)
    found = move(apart, label_set("sky light", "cat dog"), label_set("sky dog", "cat light"))
    # Ours: sky dog cat light; theirs: sky light cat dog.
    assert found.weights["semantic.predictor.bias"].tolist() == [100, 103, 102, 101]
    assert found.weights["region.mask_head.predictor.bias"][0] == 100
    assert found.lines == [
        "classes taken by name (3): sky, dog, cat",
        "taken in the semantic branch, new in the region branch (1): light",
    ]


# --- names ---


def test_names_of_the_checkpoint(tiny_recipe: Recipe) -> None:
    recipe = derive(tiny_recipe, init_names={"horse": "cow", "lamp": "water", "grass": "sky"})
    found = move(tiny_recipe, OLD, NEW, target=recipe)
    # Ours: cow horse cat person and background; theirs: cat dog cow and background.
    assert found.weights["region.box_head.outputs.classes.bias"][[0, 1, 2, 4]].tolist() == [102, 102, 100, 103]
    assert found.weights["semantic.predictor.bias"].tolist() == [100, 102, 100, 103]
    assert found.lines == [
        "classes taken by name (6): grass from sky, lamp from water, sky, cow, horse from cow, cat",
        "new classes (1): person",
    ]


def test_names_that_the_checkpoint_does_not_know(tiny_recipe: Recipe) -> None:
    recipe = derive(tiny_recipe, init_names={"horse": "cowe"})
    with pytest.raises(InputError) as caught:
        move(tiny_recipe, OLD, NEW, target=recipe)
    assert str(caught.value) == (
        "init_names: 'horse' is to come from 'cowe', which old.safetensors does not know; did you mean 'cow'? It knows "
        'sky, grass, water, cat, dog, cow; give others as --init-names \'{"OURS": "THEIRS"}\', or {}'
    )
    # Where nothing is taken by name, no name is needed.
    assert move(tiny_recipe, OLD, OLD, target=recipe).lines == ()


def test_coco_to_cityscapes() -> None:
    recipe = upsnet_r101_cityscapes()
    coco, cityscapes = coco_labels(), cityscapes_labels()
    found = move(recipe, coco, cityscapes)
    assert found.lines == [
        "classes taken by name (15): road, sidewalk from pavement-merged, building from building-other-merged, "
        "wall from wall-other-merged, fence from fence-merged, traffic light, vegetation from tree-merged, "
        "sky from sky-other-merged, person, car, truck, bus, train, motorcycle, bicycle",
        "new classes (4): pole, traffic sign, terrain, rider",
    ]
    row = {category.name: index for index, category in enumerate(coco.categories)}
    semantic = found.weights["semantic.predictor.bias"]
    assert semantic[0] == 100 + row["road"]
    assert semantic[6] == 100 + row["traffic light"]
    assert semantic[18] == 100 + row["bicycle"]
    classes = found.weights["region.box_head.outputs.classes.bias"]
    things = [100 + row[name] - 53 for name in ("person", "car", "truck", "bus", "train", "motorcycle", "bicycle")]
    assert classes[[0, 2, 3, 4, 5, 6, 7, 8]].tolist() == [*things, 180]
