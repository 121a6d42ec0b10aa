# pyright: reportOptionalMemberAccess=false, reportArgumentType=false
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation import fast
from thingstuff.evaluation.files import score, score_files
from thingstuff.evaluation.pq import match_picture, panoptic_quality
from thingstuff.labels import LabelSet
from thingstuff.structures import Panoptic, Segment, encode_ids

CATEGORIES = [{"id": i, "name": f"class {i}", "isthing": int(i < 4)} for i in (1, 2, 3, 7, 5)]
LABELS = LabelSet.from_coco(CATEGORIES, "test")
SPEEDS = [False, True] if fast.is_installed() else [False]


def panoptic(rng, cells, categories):
    """Blocks with ids drawn anew; block 0 is void."""
    names = np.array([0, *rng.choice(2**24 - 1, len(categories), replace=False) + 1], dtype=np.int32)
    ids = names[cells]
    segments = []
    for row, category in enumerate(categories, start=1):
        y, x = np.nonzero(cells == row)
        if y.size:
            box = (int(x.min()), int(y.min()), int(x.max() - x.min()) + 1, int(y.max() - y.min()) + 1)
            thing = bool(category < 4)
            crowd = bool(row == 1 and thing)
            segments.append(
                Segment(int(names[row]), int(category), f"class {category}", thing, None, int(y.size), box, crowd)
            )
    return Panoptic(ids, tuple(segments))


def make_pairs(count, seed=0):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        height, width = rng.integers(20, 50, 2)
        cells = np.kron(rng.integers(0, 8, (height // 6 + 1, width // 6 + 1)), np.ones((6, 6), int))[:height, :width]
        other = np.roll(cells, rng.integers(-2, 3, 2), (0, 1))
        categories = rng.choice([1, 2, 3, 7, 5], 7)
        guessed = np.where(rng.random(7) < 0.2, rng.choice([1, 2, 3, 7, 5], 7), categories)
        truth, prediction = panoptic(rng, cells, categories), panoptic(rng, other, guessed)
        crowds = {s.category_id for s in truth.segments if s.iscrowd}
        assert len(crowds) <= 1
        pairs.append((truth, prediction))
    return pairs


def write(root, pairs):
    for side, name in enumerate(("gt", "pred")):
        (root / name).mkdir(parents=True)
        annotations = []
        for number, pair in enumerate(pairs):
            Image.fromarray(encode_ids(pair[side].ids)).save(root / name / f"{number}.png")
            infos = [
                {"id": s.id, "category_id": s.category_id, "area": s.area, "bbox": s.bbox, "iscrowd": int(s.iscrowd)}
                for s in pair[side].segments
            ]
            annotations.append({"image_id": f"p{number}", "file_name": f"{number}.png", "segments_info": infos})
        document = {"images": [], "annotations": annotations[:: 1 if side == 0 else -1], "categories": CATEGORIES}
        (root / f"{name}.json").write_text(json.dumps(document))
    return root / "gt.json", root / "pred.json"


@pytest.fixture(scope="module")
def pairs():
    return make_pairs(40)


@pytest.fixture(scope="module")
def files(tmp_path_factory, pairs):
    return write(tmp_path_factory.mktemp("pictures"), pairs)


@pytest.mark.parametrize("use_fast", SPEEDS)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("cores", [1, 4])
def test_files_give_what_maps_in_memory_give(files, pairs, use_fast, workers, cores):
    matches = [match_picture(*pair) for pair in pairs]
    result = score_files(*files, workers=workers, use_fast=use_fast, reference_cores=cores)
    assert result.warnings == ()
    assert result.pictures == 40
    found = result.panoptic
    expected = panoptic_quality(matches, LABELS, reference_cores=cores).per_class
    assert dict(found.per_class) == dict(expected)
    assert list(found.per_class) == [1, 2, 3, 7, 5]
    assert 0.2 < (found.pq or 0) < 0.9


def test_emulation_gives_the_same_bits(files):
    assert score(*files, emulate_panopticapi=True, reference_cores=3) == score(*files, reference_cores=3)


def test_truth_against_itself_is_one(files):
    gt, _ = files
    found = score(gt, gt)
    # A crowd is never matched, but excuses the prediction that is itself.
    assert (found.pq, found.sq, found.rq) == (1, 1, 1)


GOLDEN = Path(__file__).parents[2] / "../shared/golden/pq"


@pytest.mark.reference
@pytest.mark.skipif(not GOLDEN.exists(), reason="needs panopticapi's answers in ../shared/golden/pq")
@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("use_fast", SPEEDS)
def test_joined_golden_cases(cores, use_fast):
    folders = {"gt_folder": GOLDEN / "gt", "pred_folder": GOLDEN / "pred"}
    options = {"reference_cores": cores, "use_fast": use_fast}
    found = score_files(GOLDEN / "all_gt.json", GOLDEN / "all_pred.json", **folders, **options).panoptic
    expected = json.loads((GOLDEN / "all_expected.json").read_text())[str(cores)]
    for name, group in (("All", found), ("Things", found.things), ("Stuff", found.stuff)):
        numbers = [float.fromhex(expected[name][key]["hex"]) for key in ("pq", "sq", "rq")]
        assert [group.pq, group.sq, group.rq] == numbers


@pytest.mark.reference
@pytest.mark.skipif(not GOLDEN.exists(), reason="needs panopticapi's answers in ../shared/golden/pq")
def test_golden_cases_are_emulated(tmp_path):
    """Faulty areas, ids and categories included."""
    golden = json.loads((GOLDEN / "golden.json").read_text())
    for case in golden["cases"]:
        for side in ("gt", "pred"):
            document = {"annotations": [case[side]], "categories": golden["categories"]}
            (tmp_path / f"{side}.json").write_text(json.dumps(document))
        paths = (tmp_path / "gt.json", tmp_path / "pred.json")
        folders = {"gt_folder": GOLDEN / "gt", "pred_folder": GOLDEN / "pred"}
        if "ZeroDivisionError: division by zero" in case["expected"].values():
            with pytest.raises(InputError, match="ZeroDivisionError: division by zero"):
                score(*paths, **folders, emulate_panopticapi=True)
            continue
        found = score(*paths, **folders, emulate_panopticapi=True)
        for name, group in (("All", found), ("Things", found.things), ("Stuff", found.stuff)):
            expected = case["expected"][name]
            assert [group.pq.hex(), group.sq.hex()] == [expected["pq"]["hex"], expected["sq"]["hex"]], case["name"]


@pytest.mark.parametrize("side", ["gt", "pred"])
def test_folders_can_be_named(tmp_path, pairs, side):
    gt, pred = write(tmp_path, pairs[:2])
    expected = score(gt, pred)
    (tmp_path / side).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"name it by {side}_folder"):
        score(gt, pred)
    assert score(gt, pred, **{f"{side}_folder": str(tmp_path / "elsewhere")}) == expected


def test_table_by_hand(tmp_path):
    ids = np.array([[1, 1, 1, 2, 2, 2]], dtype=np.int32)
    truth = Panoptic(
        ids, (Segment(1, 1, "", True, None, 3, (0, 0, 3, 1)), Segment(2, 7, "", False, None, 3, (3, 0, 3, 1)))
    )
    moved = np.array([[1, 1, 2, 2, 2, 2]], dtype=np.int32)
    found = Panoptic(moved, tuple(truth.segments))
    result = score_files(*write(tmp_path, [(truth, found)]))
    assert result.table().splitlines() == [
        "        |     PQ     SQ     RQ classes",
        "--------------------------------------",
        "all     |   70.8   70.8  100.0       2",
        "things  |   66.7   66.7  100.0       1",
        "stuff   |   75.0   75.0  100.0       1",
        "",
        "        |     PQ     SQ     RQ     TP     FP     FN",
        "---------------------------------------------------",
        "class 1 |   66.7   66.7  100.0      1      0      0",
        "class 2 |      -      -      -      0      0      0",
        "class 3 |      -      -      -      0      0      0",
        "class 7 |   75.0   75.0  100.0      1      0      0",
        "class 5 |      -      -      -      0      0      0",
    ]
    written = json.loads(json.dumps(result.to_json()))
    assert (written["pictures"], written["warnings"], written["things"]["pq"]) == (1, [], 2 / 3)


def test_group_without_classes_is_a_dash(tmp_path):
    gt, pred = write(tmp_path, make_pairs(1))
    document = json.loads(gt.read_text())
    document["categories"] = [category | {"isthing": 1} for category in CATEGORIES]
    gt.write_text(json.dumps(document))
    result = score_files(gt, pred)
    assert result.panoptic.stuff is None
    assert "stuff   |      -      -      -       -" in result.table()


def test_progress_sees_every_picture(files):
    seen = []

    def watch(items, total):
        for number, item in enumerate(items, start=1):
            seen.append((number, total))
            yield item

    for options in ({"workers": 2}, {"emulate_panopticapi": True}):
        seen.clear()
        score_files(*files, progress=watch, **options)
        assert seen == [(number, 40) for number in range(1, 41)]


def test_first_fault_stops_all_threads(tmp_path, pairs):
    gt, pred = write(tmp_path, pairs)
    for number in (17, 30):
        (tmp_path / "pred" / f"{number}.png").unlink()
    with pytest.raises(InputError, match=r"17\.png: there is no such file"):
        score(gt, pred, workers=4)
    result = score(gt, pred, workers=4, lenient=True)
    assert [(warning.kind, warning.count) for warning in result.warnings] == [("prediction left out", 2)]
    assert "17.png" in result.warnings[0].example


def test_extra_that_is_not_installed(files, monkeypatch):
    monkeypatch.setattr(fast, "load", lambda: None)
    with pytest.raises(InputError, match=r"pip install 'thingstuff\[fast\]'"):
        score_files(*files, use_fast=True)
    assert score_files(*files).pictures == 40


def test_scoring_imports_no_torch():
    code = "import sys, thingstuff.evaluation.files; print(*({'torch', 'rich', 'numba'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_of_5000_pairs(tmp_path):
    """One picture, listed 5000 times with its own ids: what grows is what is kept of each."""
    fast.load()  # Compiling, once on a computer, takes about as much memory by itself.
    gt, pred = write(tmp_path, make_pairs(1))
    for path in (gt, pred):
        document = json.loads(path.read_text())
        document["annotations"] = [document["annotations"][0] | {"image_id": number} for number in range(5000)]
        for annotation in document["annotations"]:
            annotation["segments_info"] = [dict(segment) for segment in annotation["segments_info"]]
        path.write_text(json.dumps(document))
    # Not getrusage: its peak counts what this process held when it started the other one.
    code = (
        "from pathlib import Path; from thingstuff.evaluation.files import score;"
        f"score({str(gt)!r}, {str(pred)!r}); print(Path('/proc/self/status').read_text())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak = next(line for line in answer.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 300_000
