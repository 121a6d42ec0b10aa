# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportOptionalOperand=false
import json

import numpy as np
import pytest
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation.bootstrap import bootstrap_differences
from thingstuff.evaluation.compare import compare
from thingstuff.evaluation.losses import CAUSES, Change, mend
from thingstuff.evaluation.matching import TruthTable, joint_histogram
from thingstuff.evaluation.pictures import ComparedPicture
from thingstuff.labels import Category
from thingstuff.structures import encode_ids

PERSON, CAR, SKY = 1, 2, 10
CATEGORIES = [{"id": i, "name": name, "isthing": int(i < 10)} for i, name in ((1, "person"), (2, "car"), (10, "sky"))]


def compared(truth, true_categories, predicted, categories, crowds=()):
    truth, predicted = (np.atleast_2d(np.array(ids, dtype=np.int32)) for ids in (truth, predicted))
    areas = {identity: int((truth == identity).sum()) for identity in true_categories}
    table = TruthTable(true_categories, areas, list(crowds))
    return ComparedPicture(table, categories, joint_histogram(truth, predicted, None))


def causes(picture):
    """What is changed, without causes that change nothing."""
    changes = {cause: sorted(own) for cause, own in mend(picture).items()}
    return {cause: own for cause, own in changes.items() if own}


# --- causes, by hand ---


def test_exact_prediction_has_nothing_to_mend():
    picture = compared([1, 1, 2, 2], {1: PERSON, 2: SKY}, [5, 5, 6, 6], {5: PERSON, 6: SKY})
    assert causes(picture) == {"localisation": [Change(PERSON, 0, 0, 0, 0.0), Change(SKY, 0, 0, 0, 0.0)]}


def test_classification():
    """IoU 3 / 4 with the wrong class."""
    picture = compared([1, 1, 1, 1], {1: PERSON}, [5, 5, 5, 0], {5: CAR})
    assert causes(picture) == {"classification": [Change(PERSON, 1, 0, -1, 3 / 4), Change(CAR, 0, -1, 0, 0.0)]}


def test_localisation_of_a_pair_and_of_a_near_miss():
    pair = compared([1, 1, 1, 1], {1: PERSON}, [5, 5, 5, 0], {5: PERSON})
    assert causes(pair) == {"localisation": [Change(PERSON, 0, 0, 0, 1 / 4)]}
    near = compared([1, 1, 1, 1, 2, 2], {1: PERSON, 2: CAR}, [5, 0, 0, 0, 5, 0], {5: PERSON})
    assert causes(near) == {"localisation": [Change(PERSON, 1, -1, -1, 1.0)], "missed": [Change(CAR, 1, 0, -1, 1.0)]}


def test_localisation_prefers_the_larger_overlap():
    ids = [1] * 5 + [2] * 5
    picture = compared(ids, {1: PERSON, 2: PERSON}, [0, 0, 0, 5, 5, 5, 0, 0, 0, 0], {5: PERSON})
    assert causes(picture) == {
        "localisation": [Change(PERSON, 1, -1, -1, 1.0)],
        "missed": [Change(PERSON, 1, 0, -1, 1.0)],
    }


def test_missed_and_invented():
    picture = compared([1, 1, 2, 2, 2, 2], {1: PERSON, 2: SKY}, [0, 0, 6, 6, 6, 5], {5: CAR, 6: SKY})
    assert causes(picture) == {
        "localisation": [Change(SKY, 0, 0, 0, 1 / 4)],
        "missed": [Change(PERSON, 1, 0, -1, 1.0)],
        "invented": [Change(CAR, 0, -1, 0, 0.0)],
    }


def test_excused_prediction_and_crowd_are_no_errors():
    on_void = compared([0, 0, 0, 1], {1: SKY}, [5, 5, 5, 6], {5: CAR, 6: SKY})
    assert causes(on_void) == {"localisation": [Change(SKY, 0, 0, 0, 0.0)]}
    crowd = compared([1, 1, 1, 1], {1: PERSON}, [5, 5, 6, 6], {5: PERSON, 6: PERSON}, crowds=[1])
    assert causes(crowd) == {}


def test_split_in_halves_and_with_a_found_part():
    halves = compared([1, 1, 1, 1], {1: PERSON}, [5, 5, 6, 6], {5: PERSON, 6: PERSON})
    assert causes(halves) == {"split": [Change(PERSON, 1, -2, -1, 1.0)]}
    found = compared([1, 1, 1, 1, 1], {1: PERSON}, [5, 5, 5, 6, 0], {5: PERSON, 6: PERSON})
    expected = [Change(PERSON, 0, -1, 0, pytest.approx(1 / 5))]
    assert causes(found) == {"split": expected, "localisation": [Change(PERSON, 0, 0, 0, pytest.approx(2 / 5))]}


def test_parts_that_do_not_match_together_are_not_split():
    picture = compared([1] * 10, {1: PERSON}, [5, 6] + [0] * 8, {5: PERSON, 6: PERSON})
    # Each part has an IoU of 1 / 10, which is not over it.
    assert causes(picture) == {
        "missed": [Change(PERSON, 1, 0, -1, 1.0)],
        "invented": [Change(PERSON, 0, -1, 0, 0.0)] * 2,
    }


def test_merged_without_and_with_a_match():
    none = compared([1, 1, 2, 2], {1: PERSON, 2: PERSON}, [5, 5, 5, 5], {5: PERSON})
    assert causes(none) == {"merged": [Change(PERSON, 2, -1, -2, 2.0)]}
    one = compared([1, 1, 1, 2], {1: PERSON, 2: PERSON}, [5, 5, 5, 5], {5: PERSON})
    expected = [Change(PERSON, 1, 0, -1, 2 - 3 / 4)]
    assert causes(one) == {"merged": expected, "localisation": [Change(PERSON, 0, 0, 0, 1 / 4)]}


def test_every_error_has_one_cause():
    """What all causes together take away is what was wrong."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        truth = np.kron(rng.integers(0, 5, (4, 4)), np.ones((3, 3), int))
        predicted = np.where(rng.random((12, 12)) < 0.3, rng.integers(0, 6, (12, 12)), truth)
        kinds = {i: int(rng.choice([PERSON, CAR, SKY])) for i in range(1, 6)}
        guesses = {i: kinds[i] if rng.random() < 0.7 else PERSON for i in np.unique(predicted).tolist() if i}
        present = {i: kinds[i] for i in np.unique(truth).tolist() if i}
        picture = compared(truth, present, predicted, guesses)
        match = picture.match()
        changes = [change for own in mend(picture).values() for change in own]
        assert -sum(change.fp for change in changes) == len(match.false_positives)
        assert -sum(change.fn for change in changes) == len(match.false_negatives)
        assert sum(change.tp for change in changes) == len(match.false_negatives)
        assert all(change.iou >= -1e-12 for change in changes)


# --- files ---


def write(root, name, maps, categories):
    (root / name).mkdir()
    annotations = []
    for number, ids in enumerate(maps):
        Image.fromarray(encode_ids(np.array(ids, dtype=np.int32))).save(root / name / f"{number}.png")
        infos = [
            {"id": i, "category_id": categories[i], "area": int((np.array(ids) == i).sum()), "iscrowd": 0}
            for i in np.unique(ids).tolist()
            if i
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
    path = root / f"{name}.json"
    path.write_text(json.dumps({"annotations": annotations, "categories": CATEGORIES}))
    return path


TRUTH = [[1, 1, 1, 1, 3, 3, 3, 3]]
GOOD = TRUTH
BAD = [[1, 1, 1, 0, 3, 3, 3, 3]]
KINDS = {1: PERSON, 2: CAR, 3: SKY}


@pytest.fixture
def paths(tmp_path):
    """The first model is exact on every second of 20 pictures, the second on all."""
    maps = {"a": [GOOD, BAD] * 10, "b": [GOOD] * 20, "gt": [TRUTH] * 20}
    return [write(tmp_path, name, own, KINDS) for name, own in maps.items()]


def test_difference_by_hand(paths):
    result = compare(*paths, resamples=2000)
    person = (1 + 3 / 4) / 2
    groups = {group.name: group for group in result.groups}
    assert (result.a.pq, result.b.pq) == ((person + 1) / 2, 1)
    assert groups["things"].pq.value == 1 - person
    assert groups["stuff"].pq.value == 0
    assert (groups["stuff"].pq.low, groups["stuff"].pq.high, groups["stuff"].pq.better) == (0, 0, 0.5)
    assert 0 < groups["all"].pq.low < groups["all"].pq.value < groups["all"].pq.high
    assert groups["all"].rq.value == 0
    assert result.per_class[PERSON].pq == groups["things"].pq
    assert result.per_class[CAR].pq.value is None
    assert result.losses_a == pytest.approx(dict.fromkeys(CAUSES, 0) | {"localisation": (1 - person) / 2})
    assert set(result.losses_b.values()) == {0}
    assert [(p.image_id, p.a, p.b) for p in result.pictures[:2]] == [(0, 1, 1), (1, (3 / 4 + 1) / 2, 1)]


def test_swapping_models_turns_the_signs(paths):
    a, b, gt = paths
    there, back = compare(a, b, gt, resamples=500), compare(b, a, gt, resamples=500)
    first, second = there.groups[0].pq, back.groups[0].pq
    assert (first.value, first.low, first.high) == pytest.approx((-second.value, -second.high, -second.low))
    assert first.better == 1 - second.better


def test_a_model_against_itself_differs_by_nothing(paths):
    a, _, gt = paths
    result = compare(a, a, gt, resamples=100)
    for difference in (result.groups[0].pq, result.groups[0].sq, result.groups[0].rq):
        assert (difference.value, difference.low, difference.high, difference.better) == (0, 0, 0, 0.5)


def test_table_and_json(paths):
    result = compare(*paths, resamples=100, confidence=0.9)
    lines = result.table().splitlines()
    assert lines[2].split() == ["PQ", "|", "93.8", "100.0"]
    assert lines[4].split() == ["B", "-", "A", "|", "PQ", "90", "%", "B", "better", "SQ", "RQ"]
    assert any(line.split() == ["localisation", "|", "+6.2", "+0.0"] for line in lines)
    assert any(line.startswith("car ") and line.count(" -") == 5 for line in lines)
    written = json.loads(json.dumps(result.to_json()))
    assert written["differences"][0]["pq"]["value"] == pytest.approx(1 / 16)
    assert written["losses"]["a"]["missed"] == 0
    assert (written["resamples"], written["confidence"], len(written["pictures"])) == (100, 0.9, 20)


@pytest.mark.parametrize(
    ("options", "message"), [({"resamples": 0}, "resamples is 0"), ({"confidence": 1.0}, "confidence is 1.0; give a")]
)
def test_wrong_options(paths, options, message):
    with pytest.raises(InputError, match=message):
        compare(*paths, **options)


# --- bootstrap ---

CLASSES = [Category(i, f"class {i}", i < 3, (0, 0, 0)) for i in range(4)]


def random_counts(rng, pictures):
    counts = rng.integers(0, 3, (pictures, 4, 4)).astype(np.float32)
    counts[..., 0] = counts[..., 1] * rng.uniform(0.5, 1, counts.shape[:2])
    counts[:, 2] = 0
    return counts


def naive(counts):
    """PQ of all classes from the definition."""
    values = []
    for iou, tp, fp, fn in counts.sum(0).tolist():
        if tp + fp + fn:
            values.append(iou / (tp + fp / 2 + fn / 2))
    return sum(values) / len(values)


def test_bootstrap_equals_scoring_the_drawn_pictures():
    rng = np.random.default_rng(3)
    first, second = random_counts(rng, 30), random_counts(rng, 30)
    draws = bootstrap_differences(first, second, CLASSES, 50, seed=9)
    drawn = np.random.default_rng(9).integers(30, size=(50, 30))
    expected = [naive(second[rows]) - naive(first[rows]) for rows in drawn]
    assert draws[0, 0] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(draws[3 + 2]).all()


def test_interval_is_as_wide_as_theory_says():
    """SQ of one class with one pair in each picture is a mean, whose spread is known."""
    rng = np.random.default_rng(4)
    first = np.ones((400, 1, 4), dtype=np.float32) * (0, 1, 0, 0)
    second = first.copy()
    first[:, 0, 0], second[:, 0, 0] = rng.uniform(0.5, 1, (2, 400))
    draws = bootstrap_differences(first, second, CLASSES[:1], 4000, seed=0)[0, 1]
    differences = second[:, 0, 0] - first[:, 0, 0]
    assert draws.std() == pytest.approx(differences.std() / 20, rel=0.05)
    assert draws.mean() == pytest.approx(differences.mean(), abs=2e-3)


def test_bootstrap_of_nothing():
    nothing = np.zeros((0, 4, 4), dtype=np.float32)
    assert np.isnan(bootstrap_differences(nothing, nothing, CLASSES, 10, seed=0)).all()
