import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from thingstuff.checkpoint import Checkpoint
from thingstuff.data.scenes import SCENES, SceneSource
from thingstuff.errors import InputError
from thingstuff.evaluate import Evaluation, PictureEvaluation, Tally, check_labels, evaluate_pictures
from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.predict import Model
from thingstuff.recipe import derive
from thingstuff.structures import Sample, Size

SOURCE = SceneSource(2, 5, (64, 96))
MakeModel = Callable[..., Model]


@pytest.fixture(scope="module")
def make_model(tiny_checkpoint: Checkpoint) -> MakeModel:
    """A model with random weights, which lets nearly everything into the map, with changes to its recipe."""

    def make(**changes: Any) -> Model:
        always = {"model__fusion__score_threshold": 0.1, "model__fusion__stuff_area": 1}
        settings = changes if changes.get("model__fusion", True) is None else always | changes
        recipe = derive(tiny_checkpoint.recipe, **settings)
        torch.manual_seed(1)
        network = build_network(recipe, SCENES)
        return Model(replace(tiny_checkpoint, recipe=recipe, weights=network.state_dict()))

    return make


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> Model:
    return make_model()


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    values = evaluation.to_json()
    del values["seconds_per_picture"]
    return values


# --- pictures ---


def test_every_picture_is_judged(model: Model) -> None:
    seen: list[PictureEvaluation] = []
    evaluation = evaluate_pictures(model, SOURCE, range(5), with_ap=True, on_picture=seen.append).evaluation()
    assert evaluation.pictures == 5
    assert [picture.sample.image_id for picture in seen] == [0, 1, 2, 3, 4]
    assert evaluation.seconds > 0
    score = evaluation.panoptic
    assert score is not None
    counted = [
        sum(len(getattr(picture.match, name)) for picture in seen if picture.match is not None)
        for name in ("pairs", "false_positives", "false_negatives")
    ]
    assert counted == [sum(getattr(one, name) for one in score.per_class.values()) for name in ("tp", "fp", "fn")]
    assert sum(counted) > 0
    assert evaluation.box is not None
    assert evaluation.mask is not None
    assert evaluation.semantic is not None
    values = evaluation.to_json()
    assert values["pq"] == score.pq == evaluation.headline()
    assert {"sq", "rq", "things", "stuff", "per_class", "box_ap", "mask_ap", "semantic"} <= values.keys()
    assert (values["pictures"], values["skipped"]) == (5, [])


@pytest.mark.parametrize("shares", [[range(5)], [range(0, 5, 2), range(1, 5, 2)], [range(0), range(5)]])
def test_what_several_processes_count_is_what_one_counts(model: Model, shares: Sequence[range]) -> None:
    whole = evaluate_pictures(model, SOURCE, [i for share in shares for i in share], with_ap=True).evaluation()
    first, *others = (evaluate_pictures(model, SOURCE, share, with_ap=True) for share in shares)
    merged = first.merge(others)
    assert numbers(merged.evaluation()) == numbers(whole)
    # Merging leaves what it merges as it was.
    assert len(first.seconds) == len(shares[0])
    assert merged.merge([]).evaluation().pictures == 5


def test_the_order_of_the_pictures_hardly_matters(model: Model) -> None:
    one, other = (
        evaluate_pictures(model, SOURCE, order, with_ap=False).evaluation() for order in (range(5), range(4, -1, -1))
    )
    assert one.panoptic is not None
    assert other.panoptic is not None
    assert one.panoptic.pq == pytest.approx(other.panoptic.pq, rel=1e-12)
    assert one.semantic == other.semantic


def test_test_time_augmentation_is_written_down(model: Model, tiny_checkpoint: Checkpoint) -> None:
    several = Model(replace(tiny_checkpoint, recipe=model.recipe), tta=True)
    tally = evaluate_pictures(several, SOURCE, range(2), with_ap=False)
    merged = Tally(model.labels, with_ap=False, tta=several.tta).merge([tally])
    assert tally.evaluation().to_json()["tta"] == merged.evaluation().to_json()["tta"]
    assert json.loads(json.dumps(merged.evaluation().to_json()))["tta"] == {
        "scales": [0.75, 1.0, 1.25],
        "max_side": None,
        "flip": True,
        "box_voting": 0.8,
        "mask_voting": None,
    }
    plain = evaluate_pictures(model, SOURCE, range(2), with_ap=False).evaluation()
    assert plain.to_json()["tta"] is None
    assert plain.semantic != tally.evaluation().semantic


def test_average_precision_is_counted_on_request(model: Model) -> None:
    evaluation = evaluate_pictures(model, SOURCE, range(2), with_ap=False).evaluation()
    assert evaluation.box is evaluation.mask is None
    assert "box_ap" not in evaluation.to_json()


def test_no_pictures_no_numbers(model: Model) -> None:
    evaluation = evaluate_pictures(model, SOURCE, [], with_ap=True).evaluation()
    assert evaluation == Evaluation(None, None, None, None, 0, 0.0)
    assert evaluation.headline() == 0.0


@dataclass(frozen=True)
class Damaged:
    """The scenes, some of which cannot be read."""

    broken: tuple[int, ...]
    labels: LabelSet = SCENES

    def __len__(self) -> int:
        return len(SOURCE)

    def picture_sizes(self) -> list[Size]:
        return SOURCE.picture_sizes()

    def read(self, index: int) -> Sample:
        if index in self.broken:
            raise InputError(f"{index}.png: damaged; copy it again")
        return SOURCE.read(index)


def test_a_damaged_picture_stops_the_evaluation(model: Model) -> None:
    with pytest.raises(InputError, match=r"2\.png: damaged; copy it again"):
        evaluate_pictures(model, Damaged((2, 4)), range(5), with_ap=False)


def test_damaged_pictures_are_skipped_and_listed_on_request(model: Model) -> None:
    tally = evaluate_pictures(model, Damaged((2, 4)), range(5), with_ap=False, skip_damaged=True)
    assert tally.skipped == ["2.png: damaged; copy it again", "4.png: damaged; copy it again"]
    plain = evaluate_pictures(model, SOURCE, (0, 1, 3), with_ap=False)
    evaluation = tally.evaluation()
    assert evaluation.pictures == 3
    assert evaluation.panoptic == plain.evaluation().panoptic
    assert evaluation.to_json()["skipped"] == tally.skipped
    assert tally.merge([tally]).evaluation().skipped == tuple(tally.skipped * 2)


# --- models that lack a part ---


def test_a_detector_has_boxes_alone(make_model: MakeModel) -> None:
    detector = make_model(model__semantic=None, model__fusion=None, model__region__mask_head=None)
    evaluation = evaluate_pictures(detector, SOURCE, range(2), with_ap=True).evaluation()
    assert evaluation.panoptic is evaluation.mask is evaluation.semantic is None
    assert evaluation.box is not None
    assert evaluation.headline() == evaluation.box.ap


def test_mask_rcnn_is_judged_by_its_masks(make_model: MakeModel) -> None:
    mask_rcnn = make_model(model__semantic=None, model__fusion=None)
    evaluation = evaluate_pictures(mask_rcnn, SOURCE, range(2), with_ap=True).evaluation()
    assert evaluation.mask is not None
    assert evaluation.headline() == evaluation.mask.ap


@pytest.mark.parametrize(("things", "classes"), [("merged", 7), ("separate", 12)])
def test_semantic_fpn_is_judged_by_its_label_map(make_model: MakeModel, things: str, classes: int) -> None:
    semantic_fpn = make_model(model__region=None, model__fusion=None, model__semantic__things=things)
    tally = evaluate_pictures(semantic_fpn, SOURCE, range(2), with_ap=True)
    evaluation = tally.evaluation()
    assert evaluation.panoptic is evaluation.box is evaluation.mask is None
    assert evaluation.semantic is not None
    assert evaluation.headline() == evaluation.semantic.miou
    assert tally.confusion is not None
    assert tally.confusion.shape[0] >= classes
    labelled = 0
    for index in range(2):
        truth = SOURCE.read(index).truth
        assert truth is not None
        labelled += int((truth.ids > 0).sum())
    assert int(tally.confusion.sum()) == labelled  # every labelled pixel, things in one class or each in its own


def test_the_merged_class_counts_all_things(make_model: MakeModel) -> None:
    model = make_model(model__region=None, model__fusion=None)
    tally = evaluate_pictures(model, SOURCE, range(5), with_ap=False)
    things = 0
    for index in range(5):
        truth = SOURCE.read(index).truth
        assert truth is not None
        ids = [segment.id for segment in truth.segments if segment.label >= SCENES.num_stuff]
        things += int(np.isin(truth.ids, ids).sum())
    assert tally.confusion is not None
    assert things > 0
    assert int(tally.confusion[6].sum()) == things


def test_an_empty_tally_of_one_process_does_not_hide_the_other(model: Model) -> None:
    empty = Tally(SCENES, with_ap=False)
    full = evaluate_pictures(model, SOURCE, range(2), with_ap=False)
    assert numbers(empty.merge([full]).evaluation()) == numbers(full.evaluation())


# --- classes ---


def changed(identity: int, **fields: Any) -> LabelSet:
    return LabelSet(tuple(replace(one, **fields) if one.id == identity else one for one in SCENES.categories))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(7, name="bus"), r"category 7 is 'car' \(thing\) in the model and 'bus' \(thing\) in the data"),
        (changed(7, isthing=False), r"category 7 is 'car' \(thing\) in the model and 'car' \(stuff\) in the data"),
        (LabelSet(SCENES.categories[:-1]), r"category 12 is 'boat' \(thing\) in the model and absent in the data"),
        (
            LabelSet((*SCENES.categories, Category(13, "kite", True, (1, 1, 1)))),
            r"category 13 is absent in the model and 'kite' \(thing\) in the data",
        ),
    ],
)
def test_other_classes_are_refused(data: LabelSet, message: str) -> None:
    with pytest.raises(InputError, match=rf"val\.json: {message}; evaluate a model on the classes it was trained on"):
        check_labels(SCENES, data, "val.json")


def test_colours_may_differ() -> None:
    check_labels(SCENES, changed(7, color=(1, 2, 3)), "val.json")
