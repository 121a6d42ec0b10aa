# pyright: reportOptionalMemberAccess=false, reportArgumentType=false
"""Every fault in the files that panopticapi meets with an exception or a wrong number: what it does and what we do."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation.files import score, score_files
from thingstuff.structures import encode_ids

MALFORMED = Path(__file__).parents[2] / "../shared/golden/pq/malformed.json"
ANSWERS = {case["name"]: case["result"] for case in json.loads(MALFORMED.read_text())} if MALFORMED.exists() else {}


def square(inside, outside):
    ids = np.full((8, 8), outside, dtype=np.int32)
    ids[2:6, 2:6] = inside
    return ids


@dataclass
class Files:
    """One picture of 8 x 8 pixels: a person on the sky, found exactly. Tests damage it before it is written."""

    root: Path
    truth_ids: np.ndarray = field(default_factory=lambda: square(5, 3))
    predicted_ids: np.ndarray = field(default_factory=lambda: square(9, 8))
    truth: list = field(
        default_factory=lambda: [
            {"id": 5, "category_id": 1, "iscrowd": 0, "area": 16, "bbox": [2, 2, 4, 4]},
            {"id": 3, "category_id": 10, "iscrowd": 0, "area": 48, "bbox": [0, 0, 8, 8]},
        ]
    )
    predicted: list = field(default_factory=lambda: [{"id": 9, "category_id": 1}, {"id": 8, "category_id": 10}])

    def __post_init__(self):
        categories = [{"id": 1, "name": "person", "isthing": 1}, {"id": 10, "name": "sky", "isthing": 0}]
        annotations = (
            {"image_id": 1, "file_name": "1.png", "segments_info": segments}
            for segments in (self.truth, self.predicted)
        )
        self.gt, self.pred = ({"annotations": [annotation]} for annotation in annotations)
        self.gt["categories"] = categories

    def write(self):
        for name, ids, document in (("gt", self.truth_ids, self.gt), ("pred", self.predicted_ids, self.pred)):
            (self.root / name).mkdir()
            Image.fromarray(encode_ids(ids)).save(self.root / name / "1.png")
            (self.root / f"{name}.json").write_text(json.dumps(document))
        return self

    def png(self, side="pred"):
        return self.root / side / "1.png"

    def score(self, **options):
        return score(self.root / "gt.json", self.root / "pred.json", **options)


def changed(segments, position, **values):
    def edit(files):
        getattr(files, segments)[position].update(values)

    return edit


def without(segments, position, name):
    def edit(files):
        del getattr(files, segments)[position][name]

    return edit


def added(segments, *entries):
    return lambda files: getattr(files, segments).extend(entries)


def annotation_without(side, name):
    def edit(files):
        del getattr(files, side)["annotations"][0][name]

    return edit


def ids(**maps):
    def edit(files):
        for name, array in maps.items():
            setattr(files, name, np.array(array, dtype=np.int32))

    return edit


def both(*edits):
    def edit(files):
        for part in edits:
            part(files)

    return edit


def resized(shape):
    return both(ids(predicted_ids=np.full(shape, 8)), lambda files: files.predicted.pop(0))


def saved_as(mode):
    def damage(files):
        values = np.asarray(files.predicted_ids)
        array = {
            "L": values.astype(np.uint8),
            "P": values.astype(np.uint8),
            "I;16": values.astype(np.uint16),
            "LA": np.stack([values] * 2, -1).astype(np.uint8),
            "RGBA": np.dstack([encode_ids(values), np.full(values.shape, 77, np.uint8)]),
            "JPEG": encode_ids(values),
        }[mode]
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette(list(range(256)) * 3)
        image.save(files.png(), "JPEG" if mode == "JPEG" else "PNG")

    return damage


def truncate(files):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(files.png())
    files.png().write_bytes(files.png().read_bytes()[:2000])


def remove(side):
    return lambda files: files.png(side).unlink()


def remove_folder(side):
    def damage(files):
        files.png(side).unlink()
        (files.root / side).rmdir()

    return damage


def nothing(files):
    pass


def twice(side, segments=None):
    def edit(files):
        annotations = getattr(files, side)["annotations"]
        annotations.append(annotations[0] | ({} if segments is None else {"segments_info": segments}))

    return edit


def bare_list(files):
    files.pred = files.pred["annotations"]


def isthing(value):
    return lambda files: files.gt["categories"][0].update(isthing=value)


PERFECT, HALF = 1.0, 0.5
STOPS = "always stops"
# Name in malformed.json: damage before and after writing; our error (None: nothing is wrong); PQ when lenient.
CASES = {
    "baseline (well formed)": (nothing, nothing, None, PERFECT),
    "pred PNG id absent from pred JSON": (
        lambda files: files.predicted.pop(0), nothing,
        r"pred/1.png: predicted segment 9 has pixels, but the JSON lacks it; list every id of the map", HALF,
    ),
    "pred JSON id absent from pred PNG": (
        added("predicted", {"id": 123, "category_id": 1}), nothing,
        "pred/1.png: predicted segment 123 is listed in the JSON, but has no pixel; take it out", PERFECT,
    ),
    "two pred JSON ids absent from pred PNG": (
        added("predicted", {"id": 123, "category_id": 1}, {"id": 77, "category_id": 1}), nothing,
        "predicted segment 77 is listed in the JSON, but has no pixel", PERFECT,
    ),
    "pred category_id unknown": (
        changed("predicted", 0, category_id=999), nothing,
        r"pred.json: 1.png: segments_info\[0\] \(segment 9\): category_id 999 is not among the truth's categories; add",
        HALF,
    ),
    "unknown category AND id absent from JSON (lower id first)": (
        both(changed("predicted", 0, category_id=999), lambda files: files.predicted.pop(1)), nothing,
        "category_id 999 is not among", 0.0,
    ),
    "pred category_id of a segment absent from PNG is unknown": (
        added("predicted", {"id": 123, "category_id": 999}), nothing, "category_id 999 is not among", PERFECT,
    ),
    "gt category_id unknown": (
        changed("truth", 0, category_id=99), nothing,
        r"gt.json: 1.png: segments_info\[0\] \(segment 5\): category_id 99 is not among", PERFECT,
    ),
    "gt PNG id absent from gt JSON": (
        lambda files: files.truth.pop(0), nothing,
        "gt/1.png: true segment 5 has 16 pixels, but the JSON lacks it; list every id of the map", PERFECT,
    ),
    "gt JSON id absent from gt PNG": (
        added("truth", {"id": 77, "category_id": 1, "iscrowd": 0, "area": 4}), nothing,
        "gt/1.png: true segment 77 is listed in the JSON, but has no pixel; take it out of the JSON", PERFECT,
    ),
    "no prediction for a gt image": (
        lambda files: files.pred["annotations"].clear(), nothing,
        r"pred.json: no prediction for the picture with image_id 1 of .*gt.json; predict it", 0.0,
    ),
    'image_id "1" (str) in pred, 1 (int) in gt': (
        lambda files: files.pred["annotations"][0].update(image_id="1"), nothing,
        r"pred.json: image_id '1' is 1 in .*gt.json; write it as there", PERFECT,
    ),
    "pred has an extra image (no PNG for it)": (
        lambda files: files.pred["annotations"].append({"image_id": 2, "file_name": "2.png", "segments_info": []}),
        nothing, None, PERFECT,
    ),
    "pred lists the image twice (last entry empty segments)": (
        twice("pred", []), nothing, r"pred.json: annotations\[1\] \(1.png\): image_id 1 occurs twice; keep one", 0.0,
    ),
    "gt lists the image twice": (twice("gt"), nothing, r"annotations\[1\] .* image_id 1 occurs twice", PERFECT),
    "gt annotations empty": (
        lambda files: files.gt["annotations"].clear(), nothing, "gt.json: 'annotations' is empty", STOPS,
    ),
    "no gt category ever used": (
        both(ids(truth_ids=np.zeros((8, 8))), lambda files: files.truth.clear()), nothing, None, None,
    ),
    "gt folder missing": (
        nothing, remove_folder("gt"), "gt: there is no such folder with the PNG files of the truth; name it by gt_f",
        STOPS,
    ),
    "pred folder missing": (nothing, remove_folder("pred"), "pred: there is no such folder .* by pred_folder", STOPS),
    "gt PNG missing": (nothing, remove("gt"), "gt/1.png: there is no such file; put it there or correct", None),
    "pred PNG missing": (nothing, remove("pred"), "pred/1.png: there is no such file; put it there", 0.0),
    "pred size 6x8 vs gt 8x8": (
        ids(predicted_ids=square(9, 8)[:6]), nothing,
        r"pred/1.png: 6 x 8 pixels \(height x width\), but .*gt/1.png has 8 x 8; predict at the size", 0.0,
    ),
    "pred size 8x1 vs gt 8x8 (broadcasts silently)": (resized((8, 1)), nothing, "1.png: 8 x 1 pixels", 0.0),
    "pred size 1x1 vs gt 8x8 (broadcasts silently)": (resized((1, 1)), nothing, "1.png: 1 x 1 pixels", 0.0),
    "pred transposed 8x6 / gt 6x8": (
        both(
            ids(truth_ids=square(5, 3)[1:7], predicted_ids=square(9, 8)[1:7].T), changed("truth", 1, area=32),
        ), nothing, r"1.png: 8 x 6 pixels .* has 6 x 8", 0.0,
    ),
    "pred PNG grayscale (L)": (
        nothing, saved_as("L"), "pred/1.png: this is a 8-bit PNG file of mode L, which holds no segment ids", 0.0,
    ),
    "pred PNG palette (P)": (nothing, saved_as("P"), "8-bit PNG file of mode P, which holds no segment ids", 0.0),
    "pred PNG 16-bit gray (I;16)": (nothing, saved_as("I;16"), "16-bit PNG file of mode I", 0.0),
    "pred PNG RGBA (alpha ignored)": (nothing, saved_as("RGBA"), None, PERFECT),
    "pred PNG grayscale+alpha (LA)": (nothing, saved_as("LA"), "8-bit PNG file of mode LA", 0.0),
    "pred PNG truncated": (nothing, truncate, "pred/1.png: damaged or cut short .*; write or copy the file again", 0.0),
    "pred PNG is a text file": (
        nothing, lambda files: files.png().write_text("no picture"), "1.png: the file is not a picture; write", 0.0,
    ),
    "pred saved as JPEG under a .png name": (nothing, saved_as("JPEG"), "this is a JPEG file of mode RGB", 0.0),
    'gt segment lacks "iscrowd"': (
        without("truth", 0, "iscrowd"), nothing,
        r"gt.json: 1.png: segments_info\[0\] \(segment 5\): iscrowd is missing; write 1 for a group", PERFECT,
    ),
    'gt segment lacks "area"': (
        without("truth", 0, "area"), nothing, r"\(segment 5\): area is missing; write the number of pixels", PERFECT,
    ),
    'gt segment lacks "category_id"': (
        without("truth", 0, "category_id"), nothing, r"\(segment 5\): category_id is missing; write", PERFECT,
    ),
    'gt segment lacks "id"': (without("truth", 0, "id"), nothing, r"segments_info\[0\]: id is missing; write", PERFECT),
    'pred segment lacks "category_id"': (
        without("predicted", 0, "category_id"), nothing, r"\(segment 9\): category_id is missing", HALF,
    ),
    'pred segment lacks "id"': (without("predicted", 0, "id"), nothing, r"segments_info\[0\]: id is missing", HALF),
    "gt annotation lacks segments_info": (
        annotation_without("gt", "segments_info"), nothing,
        r"gt.json: annotations\[0\] \(1.png\): segments_info is missing; write a list", None,
    ),
    "pred annotation lacks segments_info": (
        annotation_without("pred", "segments_info"), nothing, "segments_info is missing", 0.0,
    ),
    "gt annotation lacks file_name": (
        annotation_without("gt", "file_name"), nothing, r"annotations\[0\] \(image_id 1\): file_name is missing", None,
    ),
    "pred annotation lacks image_id": (
        annotation_without("pred", "image_id"), nothing, r"annotations\[0\]: image_id is missing; write a whole", 0.0,
    ),
    "categories missing in gt JSON": (
        lambda files: files.gt.pop("categories"), nothing, "gt.json: lacks the list 'categories'", STOPS,
    ),
    "category lacks isthing": (
        lambda files: files.gt["categories"][0].pop("isthing"), nothing, "'person'.* lacks 'isthing'; 1 for", STOPS,
    ),
    "pred JSON is a bare list": (bare_list, nothing, "pred.json: holds a list, not an object; write", STOPS),
    "pred ids as strings": (
        both(changed("predicted", 0, id="9"), changed("predicted", 1, id="8")), nothing,
        r"segments_info\[0\]: id is '9'; write a whole number", PERFECT,
    ),
    "pred ids as floats": (
        both(changed("predicted", 0, id=9.0), changed("predicted", 1, id=8.0)), nothing,
        r"segments_info\[0\]: id is 9.0; write a whole number", PERFECT,
    ),
    "pred category_id as string": (
        changed("predicted", 0, category_id="1"), nothing,
        r"\(segment 9\): category_id is '1'; write a whole number", PERFECT,
    ),
    'iscrowd = "1" (string): not a crowd': (
        changed("truth", 0, iscrowd="1"), nothing, r"\(segment 5\): iscrowd is '1'; write 1", PERFECT,
    ),
    "iscrowd = null": (changed("truth", 0, iscrowd=None), nothing, r"\(segment 5\): iscrowd is None; write 1", PERFECT),
    "gt area null": (changed("truth", 0, area=None), nothing, r"\(segment 5\): area is None; write", PERFECT),
    "gt area float 16.0": (changed("truth", 0, area=16.0), nothing, None, PERFECT),
    "category id twice in categories (second is stuff)": (
        lambda files: files.gt["categories"].append({"id": 1, "name": "someone", "isthing": 0}), nothing,
        "gt.json: two categories have the id 1; give each its own", STOPS,
    ),
    "isthing true (bool)": (isthing(True), nothing, None, PERFECT),
    'isthing "1" (string)': (isthing("1"), nothing, r"categories\[0\] \('person'\): isthing is '1'; write 1", STOPS),
}  # fmt: skip


@pytest.fixture
def damaged(tmp_path, request):
    before, after, *expected = CASES[request.param]
    files = Files(tmp_path)
    before(files)
    after(files.write())
    return files, expected, request.param


every_case = pytest.mark.parametrize("damaged", CASES, indirect=True)
needs_answers = pytest.mark.skipif(not ANSWERS, reason="needs panopticapi's answers in ../shared/golden/pq")


@needs_answers
def test_every_case_is_here():
    assert list(CASES) == list(ANSWERS)


@every_case
@pytest.mark.parametrize("use_fast", [False, None])
def test_fault_is_an_error_that_names_it(damaged, use_fast):
    files, (message, _), _ = damaged
    if message is None:
        assert files.score().pq in (PERFECT, None)
        return
    with pytest.raises(InputError, match=message) as error:
        score_files(files.root / "gt.json", files.root / "pred.json", use_fast=use_fast)
    assert "\n" not in str(error.value)
    assert str(files.root) in str(error.value)


@every_case
def test_lenient_scoring_mends_and_counts(damaged):
    files, (message, expected), name = damaged
    if expected == STOPS:
        with pytest.raises(InputError, match=message):
            files.score(lenient=True)
        return
    result = files.score(lenient=True)
    assert result.pq == expected
    assert bool(result.warnings) == (message is not None or name.startswith("pred has an extra image"))
    assert all(warning.count >= 1 and warning.example for warning in result.warnings)


@needs_answers
@pytest.mark.reference
@every_case
def test_emulation_gives_the_answer_of_panopticapi(damaged):
    files, _, name = damaged
    expected = ANSWERS[name].replace("<dir>", str(files.root))
    if not expected.startswith("no error"):
        with pytest.raises(InputError) as error:
            files.score(emulate_panopticapi=True)
        # The text of numpy's own errors differs from version to version.
        expected = "TypeError: " if "only 0-dimensional" in expected else expected
        assert expected in str(error.value)
        return
    found = files.score(emulate_panopticapi=True)
    groups = {"All": found, "Things": found.things, "Stuff": found.stuff}
    shown = ", ".join(f"{group} {100 * numbers.pq:.4f} n={numbers.n}" for group, numbers in groups.items())
    assert f"no error; {shown}" == expected


# --- faults that panopticapi's table does not have ---


def test_wrong_area_is_recounted(tmp_path):
    files = Files(tmp_path)
    files.truth[0]["area"] = 10
    files.write()
    with pytest.raises(InputError, match=r"gt/1.png: true segment 5 has 16 pixels, the JSON says area 10; correct"):
        files.score()
    assert files.score(emulate_panopticapi=True).pq == pytest.approx((16 / 10 + 1) / 2)
    result = files.score(lenient=True)
    assert result.pq == 1
    assert [(warning.kind, warning.count) for warning in result.warnings] == [("wrong area", 1)]


def test_wrong_box_changes_nothing_and_is_told(tmp_path):
    files = Files(tmp_path)
    files.truth[0]["bbox"] = [2, 2, 3, 3]
    result = files.write().score()
    assert result.pq == 1
    assert "the box (2, 2, 4, 4), the JSON says (2.0, 2.0, 3.0, 3.0)" in result.warnings[0].example


@pytest.mark.parametrize(
    ("segments", "values", "message"),
    [
        ("truth", {"id": 0}, r"gt.json: 1.png: segments_info\[0\]: segment id 0; 0 means void; number segments from 1"),
        ("predicted", {"id": 0}, r"pred.json: 1.png: segments_info\[0\]: segment id 0; 0 means void"),
        ("predicted", {"id": 2**24}, "segment id 16777216; ids are from 1 to 16777215"),
        ("truth", {"id": 3}, r"segments_info\[1\]: segment 3 is listed twice; give each segment its own id"),
        ("predicted", {"id": 8}, r"segments_info\[1\]: segment 8 is listed twice"),
        ("truth", {"area": float("nan")}, "area is nan; write the number of pixels"),
        ("truth", {"area": 15.5}, "area is 15.5; write the number of pixels"),
        ("predicted", {"id": True}, "id is True; write a whole number"),
    ],
)
def test_wrong_segments(tmp_path, segments, values, message):
    files = Files(tmp_path)
    getattr(files, segments)[0].update(values)
    files.write()
    with pytest.raises(InputError, match=message):
        files.score()
    result = files.score(lenient=True)
    assert result.warnings
    assert result.pq is not None
    assert 0 <= result.pq <= 1


def test_unlisted_truth_is_void_when_lenient(tmp_path):
    """The person's pixels belong to nobody: a car predicted there is excused."""
    files = Files(tmp_path)
    files.truth.pop(0)
    files.predicted[0]["category_id"] = 10
    files.write()
    sky = files.score(lenient=True).per_class[10]
    assert (sky.tp, sky.fp, sky.fn, sky.iou) == (1, 0, 0, 1.0)


def test_two_crowds_of_a_class_are_told(tmp_path):
    files = Files(tmp_path)
    files.truth[0]["iscrowd"] = 1
    files.truth[1].update(iscrowd=1, category_id=1)
    result = files.write().score()
    assert [warning.kind for warning in result.warnings] == ["several crowds of a class"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "pred.json: cannot be read as JSON"),
        ("{}", "pred.json: lacks the list 'annotations'"),
        (None, "no such file"),
    ],
)
def test_unreadable_json(tmp_path, content, message):
    files = Files(tmp_path).write()
    path = tmp_path / "pred.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=message):
        files.score()


def test_options_that_do_not_fit(tmp_path):
    files = Files(tmp_path).write()
    with pytest.raises(InputError, match="emulate_panopticapi excludes lenient"):
        files.score(lenient=True, emulate_panopticapi=True)
    with pytest.raises(InputError, match="workers is 0"):
        files.score(workers=0)
    for emulate in (False, True):
        with pytest.raises(InputError, match="reference_cores is 0"):
            files.score(reference_cores=0, emulate_panopticapi=emulate)


def test_predictions_of_a_folder_are_known_by_the_names_of_their_files(tmp_path):
    """What `predict` writes has the names of pictures for ids, because it knows no data set."""
    files = Files(tmp_path)
    files.gt["annotations"][0]["image_id"] = 19
    files.pred["annotations"][0]["image_id"] = "house"
    found = files.write().score()
    assert found.pq == 1
    (warning,) = found.warnings
    assert warning.kind == "image ids of another data set"
    assert "pred.json: no image_id is in" in warning.example


@pytest.mark.parametrize("name", ["other.png", "sub/2.png"])
def test_other_names_tell_nothing(tmp_path, name):
    files = Files(tmp_path)
    files.gt["annotations"][0]["image_id"] = 19
    files.pred["annotations"][0] |= {"image_id": "house", "file_name": name}
    with pytest.raises(InputError, match="no prediction for the picture with image_id 19"):
        files.write().score()


def test_names_count_only_where_no_id_is_known(tmp_path):
    """One picture by its id, another by its name: that would be guessing."""
    files = Files(tmp_path)
    files.gt["annotations"].append(files.gt["annotations"][0] | {"image_id": 2, "file_name": "2.png"})
    files.pred["annotations"].append(files.pred["annotations"][0] | {"image_id": "house", "file_name": "2.png"})
    files.write()
    for side in ("gt", "pred"):
        shutil.copy(files.png(side), tmp_path / side / "2.png")
    with pytest.raises(InputError, match="no prediction for the picture with image_id 2"):
        files.score()
