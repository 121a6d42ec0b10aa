import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thingstuff.checkpoint import Checkpoint, save_checkpoint
from thingstuff.data.scenes import SCENES, draw_scene
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.model.build import build_network
from thingstuff.predict import Model, as_array, load
from thingstuff.recipe import derive
from thingstuff.recipe_model import TTAConfig
from thingstuff.result import Result
from thingstuff.structures import decode_ids

SCENE = draw_scene(3, 0, (64, 96)).image
STUFF_IDS = {category.id for category in SCENES.categories if not category.isthing}
THING_IDS = {category.id for category in SCENES.categories if category.isthing}
MakeModel = Callable[..., Model]


@pytest.fixture(scope="module")
def make_model(tiny_checkpoint: Checkpoint) -> MakeModel:
    """A model with random weights, which lets nearly everything into the map, with changes to its recipe."""

    def make(labels: LabelSet = SCENES, *, tta: bool = False, **changes: Any) -> Model:
        always = {"model__fusion__score_threshold": 0.1, "model__fusion__stuff_area": 1}
        settings = changes if changes.get("model__fusion", True) is None else always | changes
        recipe = derive(tiny_checkpoint.recipe, **settings)
        torch.manual_seed(1)
        network = build_network(recipe, labels)
        return Model(replace(tiny_checkpoint, recipe=recipe, labels=labels, weights=network.state_dict()), tta=tta)

    return make


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> Model:
    return make_model()


@pytest.fixture(scope="module")
def result(model: Model) -> Result:
    return model(SCENE)


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


# --- what goes in ---


def test_a_picture_in_any_form(model: Model, result: Result, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    Image.fromarray(SCENE).save(path)
    for form in (path, str(path), Image.fromarray(SCENE), SCENE.copy(), np.asfortranarray(SCENE), SCENE[::-1][::-1]):
        assert same(model(form).ids, result.ids)


def test_a_list_gives_a_list(model: Model, result: Result) -> None:
    results = model([SCENE, Image.fromarray(SCENE[:, ::-1])])
    assert isinstance(results, list)
    assert len(results) == 2
    assert same(results[0].ids, result.ids)
    assert model([]) == []


def upright(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def test_grey_and_other_files_are_converted(model: Model, tmp_path: Path) -> None:
    grey = Image.fromarray(SCENE).convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    cmyk = Image.fromarray(SCENE).convert("CMYK")
    for name, image, expected in (("grey.png", grey, upright(grey)), ("deep.png", sixteen, upright(grey))):
        image.save(tmp_path / name)
        found = model(tmp_path / name)
        assert np.array_equal(found.image, expected), name
        assert found.ids is not None
        assert found.ids.shape == (64, 96)
    cmyk.save(tmp_path / "print.tif")
    assert np.array_equal(model(tmp_path / "print.tif").image, upright(cmyk))


def test_a_photograph_taken_sideways_is_turned_upright(model: Model, result: Result, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn to the right
    Image.fromarray(np.rot90(SCENE)).save(tmp_path / "phone.png", exif=exif)
    assert same(model(tmp_path / "phone.png").ids, result.ids)
    with Image.open(tmp_path / "phone.png") as image:
        assert same(model(image).ids, result.ids)


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (30, 2000), (2000, 30), (33, 31)])
def test_odd_sizes(model: Model, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = model(picture)
    check_consistency(found, size)
    assert found.overlay().size in multiples(size)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"an array of 4 x 4 uint8; give \(height, width, 3\) of uint8 or uint16"),
        (np.zeros((4, 4, 4), np.uint8), "an array of 4 x 4 x 4 uint8"),
        (np.zeros((3, 4, 4), np.uint8), "an array of 3 x 4 x 4 uint8"),
        (np.zeros((0, 4, 3), np.uint8), "an array of 0 x 4 x 3 uint8"),
        (np.zeros((4, 4, 3), np.float32), "an array of 4 x 4 x 3 float32"),
        (np.zeros((4, 4, 3), np.int64), "an array of 4 x 4 x 3 int64"),
        (np.zeros((1, 4, 4, 3), np.uint8), "an array of 1 x 4 x 4 x 3 uint8"),
    ],
)
def test_arrays_of_another_kind(model: Model, picture: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(picture)


def test_what_is_no_picture() -> None:
    """In a process of its own: here, type checks that only tests have would come first."""
    script = """
import torch, thingstuff
model = thingstuff.load("tiny-scenes")
for picture in (None, 3, torch.zeros(4, 5, 3, dtype=torch.uint8)):
    try:
        model(picture)
    except thingstuff.InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ending = "give a path, a PIL image, a numpy array, or a list of them"
    assert done.stdout.splitlines() == [f"picture: a {kind}; {ending}" for kind in ("NoneType", "int", "Tensor")]


def test_a_model_shows_itself(model: Model, result: Result) -> None:
    assert repr(model) == "Model(tiny: 6 thing classes, 6 stuff classes, pictures as they are)"
    assert re.fullmatch(r"DetectedInstances\(\d+ in \d+x\d+, masks, scores [\d.]+ to [\d.]+\)", repr(result.instances))


def test_a_missing_picture(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jpg: there is no such picture"):
        model(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="this is a folder, not a picture"):
        model(tmp_path)


def test_as_array_shares_what_it_can() -> None:
    assert as_array(SCENE, 3) is SCENE


def test_five_channels_of_16_bits(make_model: MakeModel) -> None:
    picture = {"picture__channels": 5, "picture__mean": (9000.0,) * 5, "picture__std": (4000.0,) * 5}
    model = make_model(**picture)
    image = np.random.default_rng(0).integers(0, 65536, (64, 64, 5), dtype=np.uint16)
    found = model(image)
    check_consistency(found, (64, 64))
    assert found.overlay().size in multiples((64, 64))
    with pytest.raises(InputError, match=r"4 x 4 x 3 uint8; give \(height, width, 5\)"):
        model(np.zeros((4, 4, 3), np.uint8))


# --- what comes out ---


def multiples(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes as PIL has them: small pictures are drawn enlarged by a whole factor."""
    return [(factor * size[1], factor * size[0]) for factor in range(1, 600)]


def check_consistency(found: Result, size: tuple[int, int]) -> None:
    """Map and table say the same, and instances are sorted and inside the picture."""
    assert found.ids is not None
    assert found.segments is not None
    assert found.instances is not None
    assert found.ids.shape == size
    assert found.ids.dtype == np.int32
    assert [segment.id for segment in found.segments] == list(range(1, len(found.segments) + 1))
    assert set(np.unique(found.ids)) - {0} == {segment.id for segment in found.segments}
    for segment in found.segments:
        rows, columns = np.nonzero(found.ids == segment.id)
        assert segment.area == len(rows)
        box = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
        assert segment.bbox == box
        category = SCENES.categories[SCENES.index[segment.category_id]]
        assert (segment.name, segment.isthing) == (category.name, category.isthing)
        assert (segment.score is None) != segment.isthing
    stuff = [segment.category_id for segment in found.segments if not segment.isthing]
    assert len(stuff) == len(set(stuff))
    boxes, scores = found.instances.boxes, found.instances.scores
    assert len(found.instances) == len(boxes) == len(scores) == len(found.instances.category_ids)
    assert (np.diff(scores) <= 0).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (size[1], size[0])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    masks = found.instances.masks()
    assert masks is not None
    assert masks.shape == (len(boxes), *size)


def test_map_table_and_instances_agree(result: Result) -> None:
    check_consistency(result, (64, 96))
    assert result.segments is not None
    assert result.instances is not None
    assert {True, False} == {segment.isthing for segment in result.segments}
    assert set(result.instances.category_ids.tolist()) <= THING_IDS
    assert len(result.instances) > 0


@pytest.mark.parametrize("size", [(32, 48), (100, 50), (1, 1)])
def test_output_size(model: Model, result: Result, size: tuple[int, int]) -> None:
    found = model(SCENE, output_size=size)
    check_consistency(found, size)
    assert found.semantic is not None
    assert found.semantic.shape == size
    assert found.overlay().size in multiples(size)
    assert result.instances is not None
    assert found.instances is not None
    if size != (1, 1):
        scale = np.array([size[1] / 96, size[0] / 64] * 2)
        np.testing.assert_allclose(found.instances.boxes, result.instances.boxes * scale, atol=1e-3)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (True, 5), (10**7, 5)])
def test_impossible_output_sizes(model: Model, size: Any) -> None:
    with pytest.raises(
        InputError, match=r"output_size is .*; give (\(height, width\)|a whole number of pixels from 1)"
    ):
        model(SCENE, output_size=size)


def test_sixteen_bits_are_seen_as_eight(model: Model) -> None:
    wide = SCENE.astype(np.uint16) * 257
    assert same(model(wide).ids, model(SCENE).ids)


def test_masks_lie_in_their_boxes(result: Result) -> None:
    assert result.instances is not None
    masks = result.instances.masks()
    assert masks is not None
    for row, (mask, box) in enumerate(zip(masks, result.instances.boxes, strict=True)):
        assert np.array_equal(mask, result.instances.mask(row))
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert columns.min() >= np.floor(box[0]) - 1
            assert columns.max() <= np.ceil(box[2])
            assert rows.min() >= np.floor(box[1]) - 1
            assert rows.max() <= np.ceil(box[3])


def test_semantic_are_category_ids_with_0_for_things(result: Result, make_model: MakeModel) -> None:
    assert result.semantic is not None
    assert result.semantic.shape == (64, 96)
    assert set(np.unique(result.semantic)) <= STUFF_IDS | {0}
    assert result.num_semantic_classes() == SCENES.num_stuff + 1
    apart = make_model(model__semantic__things="separate")(SCENE)
    assert apart.num_semantic_classes() == len(SCENES)
    assert apart.semantic is not None
    assert set(np.unique(apart.semantic)) <= STUFF_IDS | THING_IDS


def test_stuff_of_the_map_is_stuff_of_the_semantic_branch(result: Result) -> None:
    assert result.semantic is not None
    assert result.segments is not None
    for segment in result.segments:
        if not segment.isthing:
            assert (result.semantic[result.ids == segment.id] == segment.category_id).all()


def test_coco_there_and_back(result: Result) -> None:
    png, segments = result.to_coco()
    assert same(decode_ids(png), result.ids)
    assert result.segments is not None
    assert len(segments) == len(result.segments)
    for written, segment in zip(segments, result.segments, strict=True):
        assert (written["id"], written["category_id"], written["area"]) == (
            segment.id,
            segment.category_id,
            segment.area,
        )
        assert tuple(written["bbox"]) == segment.bbox
        assert written["iscrowd"] == 0


def test_a_result_shows_itself(result: Result) -> None:
    overlay = result.overlay()
    assert isinstance(overlay, Image.Image)
    assert overlay.size in multiples((64, 96))
    assert not np.array_equal(np.asarray(overlay.convert("RGB").resize((96, 64), Image.Resampling.NEAREST)), SCENE)
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert shown.size == overlay.size
    assert repr(result).startswith("Result(96x64, ")
    assert "segments: " in repr(result)


# --- models that lack a part ---


def test_detection_alone(make_model: MakeModel) -> None:
    found = make_model(model__semantic=None, model__fusion=None, model__region__mask_head=None)(SCENE)
    assert found.ids is None
    assert found.segments is None
    assert found.semantic is None
    assert found.instances is not None
    assert len(found.instances) > 0
    assert found.instances.masks() is None
    assert found.overlay().size in multiples((64, 96))
    assert repr(found) == f"Result(96x64, {len(found.instances)} instances)"
    with pytest.raises(InputError, match=r"to_coco: this network makes no panoptic map; use result\.instances"):
        found.to_coco()


def test_mask_rcnn_alone(make_model: MakeModel) -> None:
    found = make_model(model__semantic=None, model__fusion=None)(SCENE)
    assert found.ids is None
    assert found.instances is not None
    masks = found.instances.masks()
    assert masks is not None
    assert masks.shape == (len(found.instances), 64, 96)
    assert found.overlay().size in multiples((64, 96))


@pytest.mark.parametrize("things", ["merged", "separate"])
def test_semantic_fpn_alone(make_model: MakeModel, things: str) -> None:
    found = make_model(model__region=None, model__fusion=None, model__semantic__things=things)(SCENE)
    assert found.ids is None
    assert found.segments is None
    assert found.instances is None
    assert found.semantic is not None
    assert set(np.unique(found.semantic)) <= STUFF_IDS | ({0} if things == "merged" else THING_IDS)
    assert found.overlay().size in multiples((64, 96))
    assert repr(found) == "Result(96x64)"


@pytest.mark.parametrize(("first", "last"), [(0, 6), (6, 12)])
def test_classes_of_one_kind_only(make_model: MakeModel, first: int, last: int) -> None:
    found = make_model(LabelSet(SCENES.categories[first:last]))(SCENE)
    assert (found.instances is None) == (first == 0)
    assert (found.semantic is None) == (first == 6)
    assert found.ids is not None
    assert found.segments is not None
    assert {segment.isthing for segment in found.segments} == {first == 6}
    if first == 0:
        # Without things no output stands for them.
        assert found.semantic is not None
        assert 0 not in found.semantic


# --- test-time augmentation ---

DETECTION = {"model__semantic": None, "model__fusion": None, "model__region__mask_head": None}
INSTANCE = {"model__semantic": None, "model__fusion": None}
SEMANTIC = {"model__region": None, "model__fusion": None}
UPSNET = {
    "model__semantic__things": "separate",
    "model__fusion__kind": "panoptic_logits",
    "model__fusion__overlap_threshold": 0.3,
}


def test_one_look_as_usual_changes_nothing(make_model: MakeModel, result: Result) -> None:
    once = make_model(tta=True, tta__scales=(1.0,), tta__flip=False, tta__box_voting=None)(SCENE)
    assert same(once.ids, result.ids)
    assert same(once.semantic, result.semantic)
    assert once.instances is not None
    assert result.instances is not None
    for name in ("boxes", "scores", "category_ids"):
        assert same(getattr(once.instances, name), getattr(result.instances, name)), name


def test_off_by_default(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint)
    assert load(tmp_path / "tiny.safetensors").tta is None
    assert load(tmp_path / "tiny.safetensors", tta=True).tta == TTAConfig()
    model = Model(tiny_checkpoint, tta=True)
    assert Model.of_network(model.network, tiny_checkpoint).tta is None


def test_a_mirrored_picture_has_the_mirrored_map(make_model: MakeModel, model: Model) -> None:
    seen, other = (make_model(tta=True)(image) for image in (SCENE, np.ascontiguousarray(SCENE[:, ::-1])))
    plain = model(np.ascontiguousarray(SCENE[:, ::-1]))
    expected, wanted = model(SCENE).semantic, seen.semantic
    for found in (other.semantic, plain.semantic, expected, wanted):
        assert found is not None
    assert not same(plain.semantic[:, ::-1], expected)  # pyright: ignore[reportOptionalSubscript]
    assert np.mean(other.semantic[:, ::-1] == wanted) > 0.999  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("parts", [{}, DETECTION, INSTANCE, SEMANTIC, UPSNET])
@pytest.mark.parametrize(("size", "output_size"), [((33, 71), None), ((64, 96), (100, 50)), ((1, 97), None)])
def test_every_network_can_look_several_times(
    make_model: MakeModel, parts: dict[str, Any], size: tuple[int, int], output_size: tuple[int, int] | None
) -> None:
    model = make_model(tta=True, tta__scales=(0.75, 1.0), tta__mask_voting=0.5, **parts)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = model(picture, output_size=output_size)
    assert (found.ids is None) == (parts in (DETECTION, INSTANCE, SEMANTIC))
    assert (found.semantic is None) == (parts in (DETECTION, INSTANCE))
    assert (found.instances is None) == (parts == SEMANTIC)
    if found.ids is not None and parts == {}:
        check_consistency(found, output_size or size)
    if found.instances is not None:
        masks = found.instances.masks()
        assert (masks is None) == (parts == DETECTION)
        assert masks is None or masks.shape == (len(found.instances), *(output_size or size))
    assert found.overlay().size in multiples(output_size or size)


# --- load ---


def test_load_keeps_what_the_checkpoint_says(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint)
    model = load(tmp_path / "tiny.safetensors")
    assert model.labels == SCENES
    assert model.recipe == tiny_checkpoint.recipe
    assert (model.credit, model.metrics) == ("nobody's", {"pq": 0.5})
    assert (model.short_side, model.max_side) == (0, 1024)
    assert not model.network.training
    other = load(str(tmp_path / "tiny.safetensors"), short_side=32, max_side=40)
    assert (other.short_side, other.max_side) == (32, 40)
    found = other(SCENE)
    assert found.ids is not None
    assert found.ids.shape == (64, 96)
    assert np.array_equal(found.image, SCENE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": -1}, "short_side is -1; give a whole number of pixels from 0"),
        ({"short_side": 32, "max_side": 0}, "max_side is 0; give a whole number of pixels from 1"),
        ({"max_side": 50}, "max_side is 50, but pictures keep their size here; give short_side as well"),
        ({"device": "gpu"}, r"device is 'gpu', which cannot be used here \(.*\); use 'cpu'"),
    ],
)
def test_wrong_options(tmp_path: Path, tiny_checkpoint: Checkpoint, options: dict[str, Any], message: str) -> None:
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "tiny.safetensors", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"device is 'cuda', which cannot be used here \(.*\); use 'cpu'"):
        Model(tiny_checkpoint, device="cuda")


def test_a_network_in_training_can_be_wrapped_as_it_stands(tiny_checkpoint: Checkpoint, model: Model) -> None:
    wrapped = Model.of_network(model.network, replace(tiny_checkpoint, weights={}))
    assert wrapped.network is model.network
    assert same(wrapped(SCENE).semantic, model(SCENE).semantic)


@pytest.mark.parametrize(
    ("name", "near"), [("tiny_facades", "tiny-facades"), ("coco/panoptic-fpn-r50", "coco/panoptic-fpn")]
)
def test_a_name_that_does_not_exist_says_the_nearest(name: str, near: str) -> None:
    with pytest.raises(
        InputError, match=rf"^{name}: there is no such checkpoint; did you mean {near}.*\? Give the path"
    ):
        load(name)
