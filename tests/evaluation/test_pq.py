import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation.pq import (
    ClassCounts,
    GroupScore,
    MatchedPair,
    PictureMatch,
    average_classes,
    count_classes,
    count_overlaps,
    match_picture,
    panoptic_quality,
)
from thingstuff.labels import LabelSet
from thingstuff.structures import Panoptic, Segment, decode_ids

PERSON, CAR, SKY, GRASS = 1, 2, 10, 11
THINGS = (PERSON, CAR)
LABELS = LabelSet.from_coco(
    [{"id": i, "name": f"class {i}", "isthing": int(i in THINGS)} for i in (PERSON, CAR, SKY, GRASS)], "test"
)


def segment(identity, category_id, area=0, *, crowd=False):
    isthing = category_id in THINGS
    return Segment(identity, category_id, f"class {category_id}", isthing, None, area, (0, 0, 0, 0), crowd)


def panoptic(ids, categories, crowds=()):
    """A map of the ids, with the segments that have pixels and their true areas."""
    ids = np.atleast_2d(np.asarray(ids, dtype=np.int32))
    present = [(i, int((ids == i).sum())) for i in categories if (ids == i).any()]
    return Panoptic(ids, tuple(segment(i, categories[i], area, crowd=i in crowds) for i, area in present))


def score(truth, prediction):
    return panoptic_quality([match_picture(truth, prediction)], LABELS)


def counts_of(match, category_id):
    return count_classes([match]).get(category_id, ClassCounts())


# --- the reference ---

GOLDEN = Path(__file__).parents[2] / "../shared/golden/pq"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="needs panopticapi's answers in ../shared/golden/pq")
CASES = json.loads((GOLDEN / "golden.json").read_text())["cases"] if GOLDEN.exists() else []
ZERO_DIVISION = "ZeroDivisionError: division by zero"


def read_annotation(annotation, folder):
    with Image.open(GOLDEN / folder / annotation["file_name"]) as image:
        ids = decode_ids(np.array(image))
    segments = tuple(
        segment(info["id"], info["category_id"], info.get("area", 0), crowd=info.get("iscrowd", 0) == 1)
        for info in annotation["segments_info"]
    )
    return Panoptic(ids, segments)


def golden_labels():
    return LabelSet.from_coco(json.loads((GOLDEN / "golden.json").read_text())["categories"], "golden")


def assert_bits(score, counts, expected):
    for category, wanted in expected["per_class"].items():
        iou = float.fromhex(wanted["iou"]["hex"])
        assert counts[int(category)] == ClassCounts(wanted["tp"], wanted["fp"], wanted["fn"], iou)
    assert len(counts) == len(expected["per_class"])
    for name, group in (("All", score), ("Things", score.things), ("Stuff", score.stuff)):
        wanted = expected[name]
        if wanted == ZERO_DIVISION:
            assert (group.pq, group.sq, group.rq, group.n) == (None, None, None, 0)
        else:
            numbers = tuple(float.fromhex(wanted[key]["hex"]) for key in ("pq", "sq", "rq"))
            assert (group.pq, group.sq, group.rq, group.n) == (*numbers, wanted["n"])
    for category, wanted in expected.get("per_class_pq", {}).items():
        found = score.per_class[int(category)]
        assert (found.pq, found.sq, found.rq) == tuple(float.fromhex(wanted[key]["hex"]) for key in ("pq", "sq", "rq"))


@needs_golden
@pytest.mark.reference
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden_case(case):
    labels = golden_labels()
    match = match_picture(read_annotation(case["gt"], "gt"), read_annotation(case["pred"], "pred"))
    counts = count_classes([match])
    by_id = sorted(labels.categories, key=lambda category: category.id)
    assert_bits(average_classes(counts, by_id), counts, case["expected"])
    if case["name"] == "gt_unknown_category":
        with pytest.raises(InputError, match="category 99, which is not among the 6 classes"):
            panoptic_quality([match], labels)
    else:
        assert_bits(panoptic_quality([match], labels), counts, case["expected"])


@needs_golden
@pytest.mark.reference
def test_all_golden_cases_are_there():
    assert len(CASES) == 52


@needs_golden
@pytest.mark.reference
@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8])
def test_joined_golden_cases(cores):
    truths = json.loads((GOLDEN / "all_gt.json").read_text())["annotations"]
    predictions = json.loads((GOLDEN / "all_pred.json").read_text())["annotations"]
    by_image = {annotation["image_id"]: annotation for annotation in predictions}
    matches = [
        match_picture(read_annotation(truth, "gt"), read_annotation(by_image[truth["image_id"]], "pred"))
        for truth in truths
    ]
    expected = json.loads((GOLDEN / "all_expected.json").read_text())[str(cores)]
    counts = count_classes(matches, reference_cores=cores)
    assert_bits(panoptic_quality(iter(matches), golden_labels(), reference_cores=cores), counts, expected)


# --- by hand ---


def test_void_of_the_truth_leaves_the_union():
    truth = panoptic([[1, 1, 1, 0, 0, 0]], {1: PERSON})
    prediction = panoptic([[5, 5, 0, 5, 5, 5]], {5: PERSON})
    assert match_picture(truth, prediction).pairs == (MatchedPair(1, 5, PERSON, 2 / 3),)


def test_iou_of_one_half_is_no_match():
    truth = panoptic([[1, 1, 2, 2]], {1: PERSON, 2: SKY})
    prediction = panoptic([[5, 6, 6, 6]], {5: PERSON, 6: SKY})
    match = match_picture(truth, prediction)
    assert match == PictureMatch((MatchedPair(2, 6, SKY, 2 / 3),), (PERSON,), (PERSON,))


@pytest.mark.parametrize(("on_void", "invented"), [(1, 1), (2, 1), (3, 0), (4, 0)])
def test_prediction_mostly_on_void_is_excused(on_void, invented):
    truth = panoptic([[0] * on_void + [1] * (4 - on_void) + [1] * 4], {1: CAR})
    prediction = panoptic([[5] * 4 + [0] * 4], {5: PERSON})
    assert counts_of(match_picture(truth, prediction), PERSON) == ClassCounts(fp=invented)


@pytest.mark.parametrize(("category", "invented"), [(PERSON, 0), (CAR, 1)])
def test_crowd_excuses_its_class_alone_and_is_never_missed(category, invented):
    truth = panoptic([[1, 1, 1, 2]], {1: PERSON, 2: SKY}, crowds={1})
    match = match_picture(truth, panoptic([[5, 5, 0, 6]], {5: category, 6: SKY}))
    assert match.false_positives == (category,) * invented
    assert match.false_negatives == ()
    assert [pair.category_id for pair in match.pairs] == [SKY]


def test_last_listed_of_two_crowds_counts():
    truth = panoptic([[1, 1, 2, 2]], {1: PERSON, 2: PERSON}, crowds={1, 2})
    prediction = panoptic([[5, 5, 0, 0]], {5: PERSON})
    assert match_picture(truth, prediction).false_positives == (PERSON,)
    reversed_truth = Panoptic(truth.ids, truth.segments[::-1])
    assert match_picture(reversed_truth, prediction).false_positives == ()


def test_segment_of_one_pixel():
    truth = panoptic([[1, 2], [2, 2]], {1: PERSON, 2: SKY})
    found = score(truth, panoptic([[7, 9], [9, 9]], {7: PERSON, 9: SKY}))
    assert found.pq == 1
    assert found.things == found.stuff == GroupScore(1.0, 1.0, 1.0, 1)
    shifted = match_picture(truth, panoptic([[9, 7], [9, 9]], {7: PERSON, 9: SKY}))
    assert counts_of(shifted, PERSON) == counts_of(shifted, SKY) == ClassCounts(fp=1, fn=1)


def test_score_of_three_pictures_by_hand():
    truth = panoptic([[1, 1, 1, 2, 2, 2]], {1: PERSON, 2: SKY})
    exact = match_picture(truth, truth)
    close = match_picture(truth, panoptic([[1, 1, 2, 2, 2, 2]], {1: PERSON, 2: SKY}))
    missed = match_picture(truth, panoptic([[3, 3, 3, 2, 2, 2]], {3: CAR, 2: SKY}))
    result = panoptic_quality([exact, close, missed], LABELS)
    person, car, sky, grass = (result.per_class[i] for i in (PERSON, CAR, SKY, GRASS))
    assert (person.tp, person.fp, person.fn, person.iou) == (2, 0, 1, 1 + 2 / 3)
    assert (person.pq, person.sq, person.rq) == ((1 + 2 / 3) / 2.5, (1 + 2 / 3) / 2, 2 / 2.5)
    assert (car.pq, car.fp) == (0, 1)
    assert (sky.tp, sky.iou) == (3, 1 + 3 / 4 + 1)
    assert (grass.pq, grass.tp, grass.fp, grass.fn) == (0, 0, 0, 0)
    assert result.n == 3
    assert result.pq == pytest.approx((2 / 3 + 0 + 2.75 / 3) / 3)
    assert result.things == GroupScore(person.pq / 2, person.sq / 2, person.rq / 2, 2)
    assert result.stuff == GroupScore(2.75 / 3, 2.75 / 3, 1.0, 1)


def test_empty_maps_and_no_pictures_count_nothing():
    void = panoptic(np.zeros((3, 4)), {})
    nothing = panoptic(np.zeros((0, 4)), {})
    truth = panoptic([[1, 0]], {1: PERSON})
    assert match_picture(void, void) == match_picture(nothing, nothing) == PictureMatch((), (), ())
    assert match_picture(truth, panoptic([[0, 0]], {})).false_negatives == (PERSON,)
    for matches in ([], [match_picture(void, void)]):
        result = panoptic_quality(matches, LABELS, reference_cores=3)
        assert (result.pq, result.sq, result.rq, result.n) == (None, None, None, 0)
        assert result.things == result.stuff == GroupScore(None, None, None, 0)


def test_group_without_classes_is_none():
    labels = LabelSet.from_coco([{"id": PERSON, "name": "person", "isthing": 1}], "test")
    truth = panoptic([[1, 1]], {1: PERSON})
    result = panoptic_quality([match_picture(truth, truth)], labels)
    assert (result.pq, result.things, result.stuff) == (1, GroupScore(1.0, 1.0, 1.0, 1), None)
    assert result.to_json()["stuff"] is None


def test_to_json_survives_json():
    truth = panoptic([[1, 1, 2, 2]], {1: PERSON, 2: SKY})
    written = json.loads(json.dumps(score(truth, truth).to_json()))
    assert list(written) == ["pq", "sq", "rq", "n", "things", "stuff", "per_class"]
    assert written["things"] == {"pq": 1, "sq": 1, "rq": 1, "n": 1}
    person = {"category_id": 1, "name": "class 1", "isthing": True, "pq": 1, "sq": 1, "rq": 1}
    assert written["per_class"][0] == {**person, "tp": 1, "fp": 0, "fn": 0, "iou": 1}
    assert [entry["category_id"] for entry in written["per_class"]] == [PERSON, CAR, SKY, GRASS]


def test_additions_follow_the_reference_cores():
    ious = [0.51, 0.55, 0.6, 0.7, 0.8, 0.9, 0.61]
    matches = [PictureMatch((MatchedPair(1, 1, PERSON, iou),), (), ()) for iou in ious]
    in_order = (((((ious[0] + ious[1]) + ious[2]) + ious[3]) + ious[4]) + ious[5]) + ious[6]
    halves = (((ious[0] + ious[1]) + ious[2]) + ious[3]) + ((ious[4] + ious[5]) + ious[6])
    assert in_order != halves
    assert count_classes(matches)[PERSON].iou == in_order
    assert count_classes(matches, reference_cores=2)[PERSON].iou == halves
    assert count_classes(matches, reference_cores=99)[PERSON].iou == in_order


def test_averages_add_in_the_order_of_the_categories():
    values = {PERSON: 0.7, CAR: 0.9, SKY: 0.6, GRASS: 0.55}
    counts = {category_id: ClassCounts(tp=1, iou=iou) for category_id, iou in values.items()}
    orders = ([PERSON, CAR, SKY, GRASS], [GRASS, SKY, PERSON, CAR])
    for order in orders:
        total = 0.0
        for category_id in order:
            total += values[category_id]
        result = average_classes(counts, [LABELS.categories[LABELS.index[category_id]] for category_id in order])
        assert result.pq == total / 4
        assert list(result.per_class) == order
    by_id = panoptic_quality([], LABELS)
    assert list(by_id.per_class) == orders[0]


def test_true_area_comes_from_the_segment():
    truth = Panoptic(np.array([[1, 1, 1, 1]], dtype=np.int32), (segment(1, PERSON, 3),))
    assert match_picture(truth, panoptic([[5, 5, 5, 5]], {5: PERSON})).pairs[0].iou == 4 / 3
    nothing = Panoptic(truth.ids, (segment(1, PERSON, 0),))
    assert match_picture(nothing, panoptic([[5, 5, 5, 5]], {5: PERSON})).pairs[0].iou == math.inf


def test_matches_can_be_sent_between_processes():
    truth = panoptic([[1, 1, 2, 2]], {1: PERSON, 2: SKY})
    match = match_picture(truth, panoptic([[1, 1, 2, 3]], {1: PERSON, 2: SKY, 3: CAR}))
    assert pickle.loads(pickle.dumps(match)) == match


# --- errors ---


@pytest.mark.parametrize(
    ("ids", "listed", "message"),
    [
        (
            [[5, 6]],
            [5],
            "street.jpg: the predicted map has pixels of id 6, which is not among its segments; list every",
        ),
        ([[5, 5]], [5, 6], "street.jpg: predicted segment 6 has no pixel in the predicted map; leave it out"),
        ([[5], [5]], [5], r"street.jpg: the predicted id map is 2 x 1 pixels \(height x width\), the true one 1 x 2;"),
        ([[5]], [5], r"the predicted id map is 1 x 1 pixels"),
    ],
)
def test_prediction_that_contradicts_itself(ids, listed, message):
    prediction = Panoptic(np.array(ids, dtype=np.int32), tuple(segment(i, PERSON) for i in listed))
    with pytest.raises(InputError, match=message) as error:
        match_picture(panoptic([[1, 1]], {1: PERSON}), prediction, picture="street.jpg")
    assert "\n" not in str(error.value)


def test_unknown_category_and_wrong_number_of_cores():
    with pytest.raises(InputError, match="category 7, which is not among the 4 classes of the label set"):
        panoptic_quality([PictureMatch((), (7,), ())], LABELS)
    with pytest.raises(InputError, match="reference_cores is 0"):
        panoptic_quality([], LABELS, reference_cores=0)


def test_scoring_imports_no_torch():
    code = (
        "import sys, thingstuff.evaluation.pq, thingstuff.evaluation.ap, thingstuff.evaluation.miou\n"
        "print(*({'torch', 'faster_coco_eval'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


# --- properties ---


SIZES = st.tuples(st.integers(1, 5), st.integers(1, 6))
IDS = (1, 2, 255, 256, 65536, 2**24 - 1)
CATEGORIES = st.lists(st.sampled_from([PERSON, CAR, SKY, GRASS]), min_size=6, max_size=6)


def numbers(size):
    return arrays(np.int64, size, elements=st.integers(0, 6))


@st.composite
def picture_pairs(draw):
    """Arguments of ``panoptic`` for a truth and a prediction much like it.

    Not yet a Panoptic: checking its type draws random numbers, which a strategy must not.
    """
    size = draw(SIZES)
    truth = draw(numbers(size))
    noise = draw(arrays(bool, size, elements=st.booleans(), fill=st.just(False)))
    prediction = np.where(noise, draw(numbers(size)), truth)
    true_categories = draw(CATEGORIES)
    categories = draw(st.just(true_categories) | CATEGORIES)
    true_table, table = (np.array([0, *draw(st.permutations(IDS))], dtype=np.int32) for _ in range(2))
    crowds = draw(st.sets(st.sampled_from(IDS), max_size=2))
    return (
        (true_table[truth], dict(zip(true_table[1:].tolist(), true_categories, strict=True)), crowds),
        (table[prediction], dict(zip(table[1:].tolist(), categories, strict=True))),
    )


def both(pair):
    truth, prediction = pair
    return panoptic(*truth), panoptic(*prediction)


def renamed(panoptic, names):
    ids = np.vectorize(names.get, otypes=[np.int32])(panoptic.ids)
    segments = (
        Segment(names[s.id], s.category_id, "", s.isthing, None, s.area, s.bbox, s.iscrowd) for s in panoptic.segments
    )
    return Panoptic(ids, tuple(segments))


def naive_counts(truth, prediction):
    """The rules with a full-size mask for each segment."""
    counts = {}
    crowds = {s.category_id: truth.ids == s.id for s in truth.segments if s.iscrowd}
    void = truth.ids == 0
    found = set()
    ious = {}
    for p in prediction.segments:
        predicted = prediction.ids == p.id
        tp, fp, fn, iou = 0, 0, 0, None
        for t in truth.segments:
            true = truth.ids == t.id
            both = (true & predicted).sum()
            if t.category_id == p.category_id and not t.iscrowd and 2 * both > ((true | predicted) & ~void).sum():
                tp, iou = 1, both / ((true | predicted) & ~void).sum()
                found.add(t.id)
                ious[t.id] = iou
        excuse = void | crowds.get(p.category_id, False)
        if not tp and not 2 * (predicted & excuse).sum() > predicted.sum():
            fp = 1
        old = counts.get(p.category_id, (0, 0, 0))
        counts[p.category_id] = (old[0] + tp, old[1] + fp, old[2] + fn)
    for t in truth.segments:
        if not t.iscrowd and t.id not in found:
            old = counts.get(t.category_id, (0, 0, 0))
            counts[t.category_id] = (old[0], old[1], old[2] + 1)
    return {category: count for category, count in counts.items() if any(count)}, ious


PROPERTY = settings(deadline=None, max_examples=100)


@PROPERTY
@given(picture_pairs())
def test_equals_a_naive_implementation(pair):
    counts, ious = naive_counts(*both(pair))
    match = match_picture(*both(pair))
    assert {i: (c.tp, c.fp, c.fn) for i, c in count_classes([match]).items()} == counts
    assert {found.truth_id: found.iou for found in match.pairs} == ious


@PROPERTY
@given(picture_pairs())
def test_overlaps_are_the_joint_histogram_in_order(pair):
    truth, prediction = (panoptic.ids for panoptic in both(pair))
    overlaps = count_overlaps(truth, prediction)
    keys = list(zip(overlaps.truth_ids.tolist(), overlaps.predicted_ids.tolist(), strict=True))
    assert keys == sorted(set(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True)))
    for (true_id, predicted_id), area in zip(keys, overlaps.areas, strict=True):
        assert area == ((truth == true_id) & (prediction == predicted_id)).sum()


@PROPERTY
@given(picture_pairs(), st.permutations(range(1, 7)))
def test_names_of_segments_do_not_matter(pair, numbers):
    truth, prediction = both(pair)
    names = dict(zip([0, 1, 2, 255, 256, 65536, 2**24 - 1], [0, *numbers], strict=True))
    before, after = (count_classes([match_picture(truth, p)]) for p in (prediction, renamed(prediction, names)))
    again = count_classes([match_picture(renamed(truth, names), prediction)])
    for other in (after, again):
        assert {i: (c.tp, c.fp, c.fn) for i, c in other.items()} == {i: (c.tp, c.fp, c.fn) for i, c in before.items()}
        assert {i: c.iou for i, c in other.items()} == pytest.approx({i: c.iou for i, c in before.items()}, rel=1e-14)


@PROPERTY
@given(st.lists(picture_pairs(), min_size=1, max_size=3), st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_of_pictures_and_number_of_cores_change_only_rounding(pairs, random, cores):
    matches = [match_picture(*both(pair)) for pair in pairs]
    shuffled = random.sample(matches, len(matches))
    before, after = panoptic_quality(matches, LABELS), panoptic_quality(shuffled, LABELS, reference_cores=cores)
    assert (before.n, before.rq) == (after.n, after.rq)
    assert (before.pq or 0) == pytest.approx(after.pq or 0, rel=1e-14)
    assert all(
        (a.tp, a.fp, a.fn) == (b.tp, b.fp, b.fn)
        for a, b in zip(before.per_class.values(), after.per_class.values(), strict=True)
    )


@PROPERTY
@given(picture_pairs())
def test_prediction_against_itself_is_perfect(pair):
    _, truth = both(pair)
    result = score(truth, truth)
    assert result.n == len({s.category_id for s in truth.segments})
    assert (result.pq, result.sq, result.rq) == ((1, 1, 1) if truth.segments else (None, None, None))


@PROPERTY
@given(picture_pairs())
def test_score_stays_between_0_and_1(pair):
    result = score(*both(pair))
    for found in (score for score in result.per_class.values() if score.tp):
        assert 0 < found.pq <= min(found.sq, found.rq)
        assert max(found.sq, found.rq) <= 1
    assert result.pq is None or 0 <= result.pq <= 1


@PROPERTY
@given(picture_pairs(), st.data())
def test_prediction_on_void_never_changes_a_match(pair, data):
    truth, prediction = both(pair)
    assume(prediction.segments)
    listed = st.sampled_from([0, *(s.id for s in prediction.segments)])
    ids = prediction.ids.copy()
    for row, column in np.argwhere(truth.ids == 0):
        ids[row, column] = data.draw(listed)
    changed = panoptic(ids, {s.id: s.category_id for s in prediction.segments})
    assert match_picture(truth, changed).pairs == match_picture(truth, prediction).pairs


@PROPERTY
@given(picture_pairs(), st.data())
def test_merging_into_a_found_thing_never_raises_true_positives(pair, data):
    truth, prediction = both(pair)
    before = match_picture(truth, prediction)
    found = [p for p in before.pairs if p.category_id in THINGS]
    assume(found and len(prediction.segments) > 1)
    kept = data.draw(st.sampled_from(found)).predicted_id
    merged = data.draw(st.sampled_from([s.id for s in prediction.segments if s.id != kept]))
    ids = np.where(prediction.ids == merged, kept, prediction.ids).astype(np.int32)
    after = match_picture(truth, panoptic(ids, {s.id: s.category_id for s in prediction.segments}))
    assert len(after.pairs) <= len(before.pairs)


def test_merging_two_halves_finds_the_object():
    truth = panoptic([[1, 1, 1, 1]], {1: PERSON})
    halves = panoptic([[5, 5, 6, 6]], {5: PERSON, 6: PERSON})
    whole = panoptic([[5, 5, 5, 5]], {5: PERSON})
    assert counts_of(match_picture(truth, halves), PERSON) == ClassCounts(fp=2, fn=1)
    assert counts_of(match_picture(truth, whole), PERSON) == ClassCounts(tp=1, iou=1.0)
