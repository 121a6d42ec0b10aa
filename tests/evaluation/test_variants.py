# pyright: reportOptionalMemberAccess=false
import json

import numpy as np
import pytest
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation.files import score_files
from thingstuff.evaluation.matching import MatchedPair, PictureMatch, TruthTable, joint_histogram, match_tables
from thingstuff.evaluation.miou import confusion_matrix
from thingstuff.evaluation.pictures import ComparedPicture
from thingstuff.evaluation.pq import average_classes, count_classes
from thingstuff.evaluation.variants import boundaries, confusion_of, match_by_rules
from thingstuff.labels import LabelSet
from thingstuff.structures import encode_ids

PERSON, CAR, SKY, GRASS = 1, 2, 10, 11
CATEGORIES = [{"id": i, "name": f"class {i}", "isthing": int(i < 10)} for i in (PERSON, CAR, SKY, GRASS)]
LABELS = LabelSet.from_coco(CATEGORIES, "test")


def compared(truth, true_categories, predicted, categories, crowds=()):
    truth, predicted = (np.atleast_2d(np.array(ids, dtype=np.int32)) for ids in (truth, predicted))
    areas = {identity: int((truth == identity).sum()) for identity in true_categories}
    table = TruthTable(true_categories, areas, list(crowds))
    return ComparedPicture(table, categories, joint_histogram(truth, predicted, None))


# --- PQ-dagger ---


def test_dagger_adds_the_overlaps_of_stuff():
    truth = [1, 1, 1, 1, 2, 2, 2, 2, 2, 0]
    predicted = [5, 5, 5, 5, 6, 7, 8, 8, 0, 6]
    kinds = {5: PERSON, 6: SKY, 7: SKY, 8: GRASS}
    match = match_by_rules(compared(truth, {1: PERSON, 2: SKY}, predicted, kinds), LABELS, "dagger")
    assert match == PictureMatch((MatchedPair(1, 5, PERSON, 1.0), MatchedPair(2, 6, SKY, 1 / 5 + 1 / 5)), (), ())
    result = average_classes(count_classes([match]), LABELS.categories)
    assert (result.stuff.pq, result.stuff.rq, result.stuff.n) == (2 / 5, 1, 1)
    assert result.pq == pytest.approx((1 + 2 / 5) / 2)


def test_dagger_averages_over_the_true_segments():
    exact = compared([1, 1], {1: SKY}, [5, 5], {5: SKY})
    missed = compared([1, 1], {1: SKY}, [5, 5], {5: GRASS})
    crowd = compared([1, 1], {1: SKY}, [5, 5], {5: SKY}, crowds=[1])
    matches = [match_by_rules(picture, LABELS, "dagger") for picture in (exact, missed, crowd)]
    result = average_classes(count_classes(matches), LABELS.categories)
    assert (result.per_class[SKY].pq, result.per_class[SKY].tp) == (1 / 2, 2)
    # Grass was only predicted: nothing to average.
    assert result.n == 1


def test_dagger_leaves_things_as_they_are():
    picture = compared([1, 1, 1, 2, 2], {1: PERSON, 2: CAR}, [5, 5, 0, 6, 7], {5: PERSON, 6: PERSON, 7: CAR})
    usual = match_tables(picture.truth, picture.predicted, picture.overlaps)
    assert match_by_rules(picture, LABELS, "dagger") == usual


# --- boundary PQ ---


def test_boundaries_by_hand():
    ids = np.zeros((7, 7), dtype=np.int32)
    ids[:, 4:] = 3
    one = [[1, 1, 1, 1, 1, 1, 1]] + [[1, 0, 0, 1, 1, 0, 1]] * 5 + [[1, 1, 1, 1, 1, 1, 1]]
    assert boundaries(ids, 1).astype(int).tolist() == one
    assert boundaries(ids, 2).all()


def test_boundaries_are_masks_without_their_erosion():
    rng = np.random.default_rng(0)
    ids = np.kron(rng.integers(0, 3, (3, 3)), np.ones((7, 7), int)).astype(np.int32)
    for distance in (1, 2, 3):
        expected = np.zeros(ids.shape, dtype=bool)
        for y, x in np.ndindex(ids.shape):
            rows, columns = (range(c - distance, c + distance + 1) for c in (y, x))
            inside = all(0 <= r < 21 and 0 <= c < 21 and ids[r, c] == ids[y, x] for r in rows for c in columns)
            expected[y, x] = not inside
        assert (boundaries(ids, distance) == expected).all()


def write(root, name, ids, infos):
    (root / name).mkdir()
    Image.fromarray(encode_ids(np.array(ids, dtype=np.int32))).save(root / name / "x.png")
    annotation = {"image_id": 1, "file_name": "x.png", "segments_info": infos}
    (root / f"{name}.json").write_text(json.dumps({"annotations": [annotation], "categories": CATEGORIES}))
    return root / f"{name}.json"


def infos_of(ids, categories, **more):
    return [
        {"id": i, "category_id": category, "area": int((np.array(ids) == i).sum()), "iscrowd": 0, **more}
        for i, category in categories.items()
    ]


def square(size, start, stop):
    ids = np.full((size, size), 3, dtype=np.int32)
    ids[start:stop, start:stop] = 5
    return ids


@pytest.fixture
def shifted(tmp_path):
    """Squares of 20 and 18 pixels in a picture of 40 x 40: boundaries are one pixel wide (2 % of 56.6)."""
    truth, predicted = square(40, 10, 30), square(40, 11, 29)
    kinds = {5: PERSON, 3: SKY}
    return (
        write(tmp_path, "gt", truth, infos_of(truth, kinds)),
        write(tmp_path, "pred", predicted, infos_of(predicted, kinds, score=0.5)),
    )


def test_boundary_by_hand(shifted):
    """The rings of the two squares share no pixel; of the sky, the picture's edge of 156 pixels is in both."""
    usual = score_files(*shifted).panoptic
    assert usual.per_class[PERSON].iou == (18 * 18) / (20 * 20)
    found = score_files(*shifted, rules="boundary").panoptic
    person, sky = found.per_class[PERSON], found.per_class[SKY]
    assert (person.tp, person.fp, person.fn) == (0, 1, 1)
    # Of the skies' boundaries, 156 + 84 and 156 + 76 pixels, only the picture's edge is shared: 156 / 316.
    assert (sky.tp, sky.fp, sky.fn) == (0, 1, 1)


def test_boundary_of_a_square_without_its_last_row(shifted):
    """Rings of 76 and 74 pixels share the upper row, both sides down to the row before, and two corners: 56."""
    gt, pred = shifted
    ids = square(40, 10, 30)
    ids[29] = 3
    Image.fromarray(encode_ids(ids)).save(pred.with_suffix("") / "x.png")
    person = score_files(gt, pred, rules="boundary").panoptic.per_class[PERSON]
    assert (person.tp, person.iou) == (1, 56 / (76 + 74 - 56))


def test_boundary_of_an_exact_prediction_is_one(shifted):
    gt, _ = shifted
    found = score_files(gt, gt, rules="boundary").panoptic
    assert (found.pq, found.sq, found.rq, found.n) == (1, 1, 1, 2)


def test_boundary_never_exceeds_the_mask_iou(shifted):
    """Void of the truth counts neither in masks nor in boundaries."""
    gt, pred = shifted
    ids = square(40, 10, 30)
    ids[9:11] = 0
    document = json.loads(gt.read_text())
    document["annotations"][0]["segments_info"] = infos_of(ids, {5: PERSON, 3: SKY})
    gt.write_text(json.dumps(document))
    Image.fromarray(encode_ids(ids)).save(gt.with_suffix("") / "x.png")
    usual, found = score_files(gt, pred).panoptic, score_files(gt, pred, rules="boundary").panoptic
    assert all(0 <= found.per_class[i].iou <= usual.per_class[i].iou for i in (PERSON, SKY))


# --- torchmetrics ---


def test_torchmetrics_rules_by_hand():
    """Two sky segments are one; void of the prediction leaves the union."""
    picture = compared([1, 1, 1, 1, 2, 3], {1: PERSON, 2: SKY, 3: SKY}, [5, 5, 0, 0, 6, 6], {5: PERSON, 6: SKY})
    match = match_by_rules(picture, LABELS, "torchmetrics")
    assert [(pair.category_id, pair.iou) for pair in match.pairs] == [(SKY, 1.0), (PERSON, 1.0)]
    usual = match_by_rules(picture, LABELS, "panopticapi")
    assert usual.false_negatives == (PERSON, SKY, SKY)


def test_torchmetrics_does_not_miss_what_void_hides():
    picture = compared([1, 1, 1, 1], {1: PERSON}, [0, 0, 0, 6], {6: SKY})
    assert match_by_rules(picture, LABELS, "torchmetrics") == PictureMatch((), (SKY,), ())


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_torchmetrics_agrees_with_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.detection", reason="compares with torchmetrics")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    for _ in range(5):
        metric = torchmetrics.PanopticQuality(things={PERSON, CAR}, stuffs={SKY, GRASS})
        matches = []
        for _ in range(4):
            cells = np.kron(rng.integers(0, 7, (4, 5)), np.ones((5, 5), int))
            other = np.where(rng.random(cells.shape) < 0.15, rng.integers(0, 7, cells.shape), cells)
            kinds, guesses = (dict(enumerate(rng.choice([PERSON, CAR, SKY, GRASS], 6).tolist(), 1)) for _ in range(2))
            guesses = {i: kinds[i] if rng.random() < 0.8 else guess for i, guess in guesses.items()}
            maps = []
            for ids, names in ((other, guesses), (cells, kinds)):
                categories = np.array([0, *names.values()])
                maps.append(torch.from_numpy(np.stack([categories[ids], ids], -1)[None]))
            # 0 is no class: void.
            metric.allow_unknown_preds_category = True
            metric.update(*maps)
            present = {i: kinds[i] for i in np.unique(cells).tolist() if i}
            drawn = {i: guesses[i] for i in np.unique(other).tolist() if i}
            matches.append(match_by_rules(compared(cells, present, other, drawn), LABELS, "torchmetrics"))
        found = average_classes(count_classes(matches), LABELS.categories)
        assert found.pq == pytest.approx(metric.compute().item(), abs=1e-6)


# --- other measures of the same files ---


def test_confusion_of_segments_is_that_of_label_maps():
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 5, (2, 9, 11))
    kinds, guesses = {1: SKY, 2: CAR, 3: SKY, 4: PERSON}, {1: SKY, 2: GRASS, 3: CAR, 4: CAR}
    tables = [np.array([255, *(LABELS.index[i] for i in names.values())], np.uint8) for names in (kinds, guesses)]
    expected = confusion_matrix(tables[0][truth], tables[1][predicted], 4)
    assert confusion_of(compared(truth, kinds, predicted, guesses), LABELS).tolist() == expected.tolist()


def test_miou_and_ap_in_the_same_pass(shifted):
    result = score_files(*shifted, with_miou=True, with_ap=True)
    person, sky = 324 / 400, 1200 / (1600 - 324)
    assert result.semantic.miou == pytest.approx((person + sky) / 2)
    # IoU 0.81: found at seven of ten thresholds.
    assert result.mask.ap == pytest.approx(0.7)
    assert result.box.ap == pytest.approx(0.7)
    assert result.panoptic == score_files(*shifted).panoptic
    assert result.table().splitlines()[-3:] == ["mIoU 87.5", "box AP 70.0", "mask AP 70.0"]
    written = json.loads(json.dumps(result.to_json()))
    assert written["semantic"]["miou"] == result.semantic.miou
    assert written["mask_ap"]["ap50"] == pytest.approx(1)


def test_ap_needs_scores(shifted):
    gt, _ = shifted
    with pytest.raises(InputError, match=r"x.png: predicted segment 5 has no score, which average precision ranks by"):
        score_files(gt, gt, with_ap=True)
    assert score_files(gt, gt, with_miou=True).semantic.miou == 1


def test_unread_prediction_finds_nothing(shifted):
    gt, pred = shifted
    (pred.with_suffix("") / "x.png").unlink()
    result = score_files(gt, pred, lenient=True, with_miou=True, with_ap=True, rules="boundary")
    assert (result.panoptic.pq, result.semantic.miou, result.mask.ap) == (0, 0, 0)


def test_cityscapes_table(shifted):
    assert score_files(*shifted).table("cityscapes").splitlines() == [
        "Category      |    PQ     SQ     RQ",
        "-----------------------------------------",
        "class 1       |  81.0   81.0  100.0",
        "class 2       |   0.0    0.0    0.0",
        "class 10      |  94.0   94.0  100.0",
        "class 11      |   0.0    0.0    0.0",
        "-----------------------------------------",
        "              |    PQ     SQ     RQ     N",
        "-----------------------------------------",
        "All           |  87.5   87.5  100.0     2",
        "Things        |  81.0   81.0  100.0     1",
        "Stuff         |  94.0   94.0  100.0     1",
    ]


def test_emulation_has_no_variants(shifted):
    with pytest.raises(InputError, match="emulate_panopticapi excludes"):
        score_files(*shifted, emulate_panopticapi=True, rules="dagger")
