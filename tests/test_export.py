"""Exported files see what the network sees: every family, no, one and many objects, any size, batches."""

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from production import as_in_production
from thingstuff.checkpoint import Checkpoint, load_checkpoint
from thingstuff.cli import main
from thingstuff.data.scenes import SCENES, draw_scene
from thingstuff.errors import InputError
from thingstuff.export import export_checkpoint
from thingstuff.export.check import LEAST_AGREEMENT, Difference, agree, compare, furthest, refuse
from thingstuff.export.graph import ExportedGraph, suppress
from thingstuff.model.build import build_network
from thingstuff.model.nms import multiclass_nms
from thingstuff.predict import Model, load
from thingstuff.recipe import derive
from thingstuff.recipe_model import (
    BackboneConfig,
    BottomUpConfig,
    BoxHeadConfig,
    FusionConfig,
    MaskHeadConfig,
    SemanticConfig,
)
from thingstuff.result import DetectedInstances
from thingstuff.runtimes import FileRuntime
from thingstuff.structures import Panoptic, Segment, Size

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

FAMILIES: dict[str, dict[str, Any]] = {
    "panoptic_fpn": {},
    "upsnet": {
        "model__backbone": BackboneConfig(name="resnet14t", norm="group", deformable_stages=2),
        "model__neck__global_average": True,
        "model__semantic": SemanticConfig(kind="deformable", channels=8, num_layers=2, norm="group", things="separate"),
        "model__region__sampling_ratio": 2,
        "model__region__aligned": False,
        "model__region__inclusive_boxes": True,
        "model__fusion": FusionConfig(kind="panoptic_logits", score_threshold=0.1, overlap_threshold=0.3, stuff_area=1),
    },
    "panet": {
        "model__neck__bottom_up": BottomUpConfig(norm="group"),
        "model__region__pool": "adaptive",
        "model__region__box_head": BoxHeadConfig(kind="heavy", channels=8, width=16, norm="group"),
        "model__region__mask_head": MaskHeadConfig(
            kind="fused", channels=8, norm="group", mask_paste="inclusive_pixels"
        ),
    },
    "semantic": {"model__region": None, "model__fusion": None, "model__semantic__things": "separate"},
    "detection": {"model__region__mask_head": None, "model__semantic": None, "model__fusion": None},
}


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


@pytest.fixture(scope="module", autouse=True)
def shape_checks_are_out() -> Iterator[None]:
    with as_in_production():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


def make_checkpoint(tiny_checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """Random weights that let nearly everything into the map."""
    always = {"model__fusion__score_threshold": 0.1, "model__fusion__stuff_area": 1}
    fewer = {"model__region__num_detections": 6}
    settings = {} if changes.get("model__fusion", True) is None else always
    settings |= {} if changes.get("model__region", True) is None else fewer
    recipe = derive(tiny_checkpoint.recipe, **(settings | changes))
    torch.manual_seed(1)
    weights = build_network(recipe, SCENES).state_dict()
    for name, tensor in weights.items():
        if name.endswith(".bias"):  # of equal tensors, as all zeros are, exporters keep one
            tensor += 0.01 * torch.randn_like(tensor)
    return replace(tiny_checkpoint, recipe=recipe, weights=weights)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Checkpoint) -> Checkpoint:
    return make_checkpoint(tiny_checkpoint)


BATCHES = {"panoptic_fpn": 2}
"""Pictures at once in the files of these tests, where it is not one."""
Exported = Callable[[str], tuple[Checkpoint, Path]]
"""Gives the network of a family and its ONNX file."""


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Checkpoint, folder: Path) -> Exported:
    """Every family is written once."""
    files: dict[str, tuple[Checkpoint, Path]] = {}

    def export(family: str) -> tuple[Checkpoint, Path]:
        if family not in files:
            made, path = make_checkpoint(tiny_checkpoint, **FAMILIES[family]), folder / f"{family}.onnx"
            export_checkpoint(made, "onnx", path, batch=BATCHES.get(family, 1))
            files[family] = made, path
        return files[family]

    return export


@pytest.fixture(scope="module")
def onnx_file(exported: Exported) -> Path:
    return exported("panoptic_fpn")[1]


@pytest.fixture(scope="module")
def openvino_file(checkpoint: Checkpoint, onnx_file: Path) -> Path:
    """The same graph for OpenVINO; the exporter's part, which takes long, is done once."""
    pytest.importorskip("openvino")
    from thingstuff.export.openvino_file import write_openvino_file
    from thingstuff.runtimes import write_metadata

    path = onnx_file.with_suffix(".xml")
    write_openvino_file(onnx_file, write_metadata(checkpoint, 2), path)
    return path


def assert_the_same(checkpoint: Checkpoint, path: Path) -> None:
    differences = compare(checkpoint, path)
    assert len(differences) in (3, 5)  # of a file for two pictures, both
    for difference in differences:
        assert difference.problem() is None, difference


# --- files ---


@pytest.mark.slow
def test_openvino(checkpoint: Checkpoint, openvino_file: Path) -> None:
    assert_the_same(checkpoint, openvino_file)


@pytest.mark.parametrize(
    "family",
    [
        name if name == "semantic" else pytest.param(name, marks=pytest.mark.slow)
        for name in FAMILIES
        if name != "panoptic_fpn"
    ],
)
def test_every_family(exported: Exported, family: str) -> None:
    pytest.importorskip("openvino")
    from thingstuff.export.openvino_file import write_openvino_file
    from thingstuff.runtimes import write_metadata

    checkpoint, path = exported(family)
    assert_the_same(checkpoint, path)
    write_openvino_file(path, write_metadata(checkpoint, 1), path.with_suffix(".xml"))
    assert_the_same(checkpoint, path.with_suffix(".xml"))


SIZES: list[tuple[Size, Size]] = [((1, 1), (1, 1)), ((33, 31), (40, 20)), ((64, 64), (64, 64)), ((70, 200), (1, 9))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize(("size", "output_size"), SIZES)
def test_any_size(
    checkpoint: Checkpoint, kind: str, size: Size, output_size: Size, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(f"{kind}_file")
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    eager = Model(checkpoint)(picture, output_size=output_size)
    found = load(path)(picture, output_size=output_size)
    assert eager.ids is not None
    assert same(eager.ids, found.ids)
    assert same(eager.semantic, found.semantic)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_two_pictures_at_once_are_seen_as_one_by_one(
    checkpoint: Checkpoint, kind: str, request: pytest.FixtureRequest
) -> None:
    from thingstuff.runtimes import open_exported

    file = open_exported(request.getfixturevalue(f"{kind}_file"), None, "float32", on_processor=True, tta=False)
    assert isinstance(file, FileRuntime)
    assert file.batch == 2
    scenes = np.stack([draw_scene(seed, 0, (96, 128)).image for seed in (1, 2)])
    found = file.run(scenes, (96, 128))
    for row, scene in enumerate(scenes):
        assert same(found["panoptic_ids"][row], Model(checkpoint, short_side=0)(scene).ids)


def with_biases(path: Path, out: Path, biases: dict[str, np.ndarray]) -> Path:
    """The same ONNX file with other biases."""
    import onnx

    model = onnx.load(path)
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in biases.items():
        found[f"network.{name}"].CopyFrom(onnx.numpy_helper.from_array(value, f"network.{name}"))
    onnx.save(model, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("family", ["panoptic_fpn", "upsnet"])
@pytest.mark.parametrize("count", [0, 1])
def test_no_object_and_one_object(exported: Exported, tmp_path: Path, count: int, family: str, kind: str) -> None:
    checkpoint, onnx_file = exported(family)
    classes, deltas = "region.box_head.outputs.classes.bias", "rpn.deltas.bias"
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    if count == 0:  # everything is background
        weights[classes][-1] += 1000
    else:  # every proposal grows to the whole picture, and of equal boxes one survives
        weights[classes][0] += 1000
        weights[deltas] += torch.tensor([0.0, 0.0, 10.0, 10.0]).repeat(3)
    changed = replace(checkpoint, weights=weights)
    path = with_biases(onnx_file, tmp_path / "few.onnx", {name: weights[name].numpy() for name in (classes, deltas)})
    if kind == "openvino":
        pytest.importorskip("openvino")
        from thingstuff.export.openvino_file import write_openvino_file
        from thingstuff.runtimes import write_metadata

        write_openvino_file(path, write_metadata(changed, BATCHES.get(family, 1)), tmp_path / "few.xml")
        path = tmp_path / "few.xml"
    for picture in (draw_scene(1, 0, (96, 128)).image, np.zeros((96, 128, 3), np.uint8)):
        eager, found = (model(picture) for model in (Model(changed, short_side=0), load(path, short_side=0)))
        assert eager.instances is not None
        assert found.instances is not None
        assert (len(eager.instances), len(found.instances)) == (count, count)
        assert eager.panoptic is not None
        assert found.panoptic is not None
        assert agree(eager.panoptic, found.panoptic) >= LEAST_AGREEMENT


@pytest.mark.slow
def test_the_bundled_network_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scenes.onnx"
    assert main(["export", "tiny-scenes", "--to", "onnx", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [d["segments"][0] == d["segments"][1] for d in said["differences"]] == [True] * 3
    assert_the_same(load_checkpoint("tiny-scenes"), out)


# --- for torch ---


@pytest.fixture(scope="module")
def torch_file(checkpoint: Checkpoint, folder: Path) -> Path:
    path = folder / "scenes.pt2"
    export_checkpoint(checkpoint, "torch", path)
    return path


@pytest.mark.slow
def test_torch_reads_the_file_without_us(checkpoint: Checkpoint, torch_file: Path) -> None:
    scene = draw_scene(1, 0, (96, 128)).image
    program = torch.export.load(torch_file).module()
    found = program(torch.from_numpy(scene)[None], torch.empty((80, 100), dtype=torch.uint8))
    assert same(found[0][0].numpy(), Model(checkpoint, short_side=0)(scene, output_size=(80, 100)).ids)


@pytest.mark.slow
def test_weights_come_back_from_the_file_without_running_anything(
    checkpoint: Checkpoint, torch_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr("torch.load", None)
    monkeypatch.setattr("torch.export.load", None)
    model = load(torch_file)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, checkpoint.weights[name]), name


def rewrite(path: Path, out: Path, ending: str, change: Any) -> Path:
    """The same archive with one file changed, or without it."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(ending):
                content = change(content)
            if content is not None:
                new.writestr(name, content)
    return out


@pytest.mark.slow
def test_a_picture_too_small_for_the_recorded_graph_is_no_crash(checkpoint: Checkpoint, torch_file: Path) -> None:
    small = np.zeros((64, 80, 3), dtype=np.uint8)
    assert load(torch_file, short_side=0)(small).panoptic is not None  # the network itself takes it
    with pytest.raises(InputError, match=r"80 x 64 pixels \(width x height\).* takes 65 and more on each side"):
        compare(checkpoint, torch_file, [small])


def test_a_picture_too_small_for_torch_is_refused_before_the_graph_is_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thingstuff.export._write", None)
    Image.fromarray(np.zeros((64, 80, 3), dtype=np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png: has 80 x 64 pixels .*compare it with larger ones"):
        export_checkpoint(checkpoint, "torch", tmp_path / "a.pt2", pictures=[tmp_path / "small.png"])


def test_pickled_content_is_refused(torch_file: Path, tmp_path: Path) -> None:
    path = rewrite(
        torch_file,
        tmp_path / "evil.pt2",
        "model_weights_config.json",
        lambda content: content.replace(b'"use_pickle": false', b'"use_pickle": true'),
    )
    with pytest.raises(InputError, match=r"evil\.pt2: holds pickled objects, which could run code"):
        load(path)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["thingstuff.json", "weight_0", "model_weights_config.json"])
def test_archives_that_lack_something(torch_file: Path, tmp_path: Path, ending: str) -> None:
    path = rewrite(torch_file, tmp_path / "cut.pt2", f"/{ending}", lambda _: None)
    with pytest.raises(InputError, match=r"cut\.pt2: .*export"):
        load(path)


# --- the graph ---


@pytest.mark.parametrize("seed", range(4))
def test_flagged_suppression_is_suppression_by_class(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand((60, 3, 2, 2), generator=random) * 30
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=2)
    scores = torch.rand((60, 3), generator=random)
    kept = suppress(boxes.transpose(0, 1), scores.T, 0.2, 0.3)
    rows, classes, valid = multiclass_nms(boxes, scores, score_threshold=0.2, iou_threshold=0.3, count=180)
    expected = torch.zeros_like(kept)
    expected[classes[valid], rows[valid]] = True
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_run_by_hand_sees_what_the_network_sees(tiny_checkpoint: Checkpoint, family: str) -> None:
    """Suppression by flags and enlarged levels change nothing, also where a level has few anchors."""
    checkpoint = make_checkpoint(tiny_checkpoint, **FAMILIES[family])
    graph = ExportedGraph(checkpoint.network(), SCENES.num_stuff, flagged_nms=True).eval()
    scene = draw_scene(5, 0, (70, 90)).image
    with torch.inference_mode():
        values = graph(torch.from_numpy(scene)[None], torch.empty((64, 64), dtype=torch.uint8))
    found = dict(zip(graph.output_names, values, strict=True))
    eager = Model(checkpoint, short_side=0)(scene, output_size=(64, 64))
    if eager.ids is not None:
        assert same(found["panoptic_ids"][0].numpy(), eager.ids)
    if eager.instances is not None:
        valid = found["instance_valid"][0]
        np.testing.assert_allclose(found["boxes"][0, valid].numpy(), eager.instances.boxes, atol=1e-3)
    if eager.semantic is not None:
        assert same(found["semantic"][0].numpy(), eager.semantic_indices())


# --- what is too different ---


def difference(**changes: Any) -> Difference:
    return replace(Difference("scene", (5, 5), 1.0, 1.0, (9, 9), 0.0, 0.0, 0.0), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": (5, 4)}, "scene: 4 segments instead of 5"),
        ({"instances": (9, 8)}, "scene: 8 instances instead of 9"),
        ({"agreement": 0.998}, r"99\.800% of the pixels agree, at least 99\.9% have to"),
        ({"semantic": 0.5}, r"50\.000% of the pixels agree"),
        ({"boxes": 0.02}, r"a box is off by 0\.02 pixels, at most 0\.01"),
        ({"scores": 0.002}, r"a score is off by 0\.002, at most 0\.001"),
        ({"masks": 0.5}, r"a mask is off by a probability of 0\.5, at most 0\.02"),
    ],
)
def test_a_file_that_differs_is_refused(changes: dict[str, Any], message: str) -> None:
    refuse([difference(), difference(agreement=0.9991, boxes=0.009)], Path("a.onnx"))
    with pytest.raises(InputError, match=rf"a\.onnx: not written, because it differs from the network .*{message}"):
        refuse([difference(), difference(**changes)], Path("a.onnx"))


def test_a_file_that_differs_is_not_left_behind(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thingstuff.export._write", lambda _checkpoint, _kind, path, _batch: path.write_bytes(b"?"))
    monkeypatch.setattr("thingstuff.export.check.compare", lambda *_: [difference(boxes=1.0)])
    with pytest.raises(InputError, match="a box is off by 1 pixels"):
        export_checkpoint(checkpoint, "onnx", tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def segment(number: int, category: int) -> Segment:
    return Segment(number, category, "", True, 1.0, 1, (0, 0, 1, 1))


def test_agreement_does_not_mind_swapped_ids() -> None:
    ids = np.array([[0, 1, 1, 2]], dtype=np.int32)
    one = Panoptic(ids, (segment(1, 7), segment(2, 7)))
    assert agree(one, one) == 1.0
    assert agree(one, Panoptic(np.array([[0, 2, 2, 1]], dtype=np.int32), one.segments)) == 1.0
    assert agree(one, Panoptic(np.array([[0, 2, 1, 1]], dtype=np.int32), one.segments)) == 0.5
    assert agree(one, Panoptic(np.array([[1, 1, 1, 2]], dtype=np.int32), one.segments)) == 0.75
    # What the first shows as two, the second shows as one.
    assert agree(one, Panoptic(np.array([[0, 1, 1, 1]], dtype=np.int32), one.segments)) == 0.75
    assert agree(one, Panoptic(ids, (segment(1, 7), segment(2, 8)))) == 0.75


def test_furthest_box_and_score() -> None:
    def instances(*rows: tuple[float, float, int]) -> DetectedInstances:
        boxes = np.array([[x, 0, x + 5, 5] for x, _, _ in rows], dtype=np.float32)
        scores = np.array([score for _, score, _ in rows], dtype=np.float32)
        return DetectedInstances(boxes, scores, np.array([kind for _, _, kind in rows]), None, (9, 9))

    one = instances((0, 0.5, 1), (10, 0.5, 1), (0, 0.25, 2))
    assert furthest(one, one) == (0, 0, None)
    assert furthest(one, instances((10, 0.5, 1), (0, 0.5, 1), (0.5, 0.75, 2))) == (0.5, 0.5, None)
    nowhere = (np.inf, np.inf, None)
    assert furthest(one, instances((0, 0.5, 1), (10, 0.5, 1), (0, 0.25, 3))) == nowhere
    assert furthest(one, instances((0, 0.5, 1), (np.nan, 0.5, 1), (0, 0.25, 2))) == nowhere
    assert furthest(one, instances((0, 0.5, 1), (10, np.nan, 1), (0, 0.25, 2))) == nowhere
    # Twice the first does not make up for the second.
    assert furthest(one, instances((0, 0.5, 1), (0, 0.5, 1), (0, 0.25, 2))) == (10, 0, None)


def test_furthest_mask() -> None:
    def instance(probability: float) -> DetectedInstances:
        box, score = np.array([[0, 0, 5, 5]], dtype=np.float32), np.array([0.5], dtype=np.float32)
        masks = np.full((1, 2, 2), probability, dtype=np.float32)
        return DetectedInstances(box, score, np.array([1]), masks, (9, 9))

    assert furthest(instance(0.25), instance(0.75)) == (0, 0, 0.5)
    assert furthest(instance(0.25), instance(np.nan)) == (0, 0, np.inf)


# --- wrong input ---


def test_wrong_names_and_numbers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.bin: a file for onnx ends in \.onnx; give .*a\.onnx"):
        export_checkpoint(checkpoint, "onnx", tmp_path / "a.bin")
    with pytest.raises(InputError, match="batch is 0; give 1 to 64"):
        export_checkpoint(checkpoint, "onnx", tmp_path / "a.onnx", batch=0)
    for folder in (Path(), tmp_path):
        with pytest.raises(InputError, match=r"is a folder; give the name of a file that ends in \.onnx"):
            export_checkpoint(checkpoint, "onnx", folder)
    with pytest.raises(InputError, match=r"absent\.jpg"):  # said before anything is written
        export_checkpoint(checkpoint, "onnx", tmp_path / "a.onnx", pictures=[tmp_path / "absent.jpg"])


def test_a_folder_that_cannot_be_made(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"a\.onnx: cannot be written"):
        export_checkpoint(checkpoint, "onnx", tmp_path / "file" / "a.onnx")


def test_command_lines_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nothing", "--to", "onnx", "--out", str(tmp_path / "a.onnx")]) == 2
    assert "there is no such checkpoint" in capsys.readouterr().err
    assert main(["export", "tiny-scenes", "--to", "onnx", "--out", str(tmp_path / "a.xml")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
