"""Runtimes: which one it will be, what is refused, and what a file says."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_files import identity_file
from thingstuff import runtimes
from thingstuff.checkpoint import Checkpoint
from thingstuff.data.scenes import SCENES, draw_scene
from thingstuff.errors import InputError
from thingstuff.predict import Model, load
from thingstuff.runtimes import (
    FileRuntime,
    open_exported,
    pick_runtime,
    pixel_type,
    read_metadata,
    write_metadata,
)

SCENE = draw_scene(3, 0, (64, 96)).image


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def missing(*names: str) -> Callable[[str], Any]:
    """A search for packages that does not find these."""
    find = importlib.util.find_spec
    return lambda name: None if name in names else find(name)


# --- which one ---


def pick(runtime: str, precision: str = "float32", on_processor: bool = True, tta: bool = False) -> str:
    return pick_runtime(runtime, precision, on_processor=on_processor, tta=tta)


@pytest.mark.parametrize(
    ("absent", "chosen"),
    [((), "openvino"), (("openvino",), "torch"), (("onnxruntime",), "openvino"), (("onnxscript",), "torch")],
)
def test_auto_takes_openvino_where_it_is_installed(
    absent: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"onnx", "onnxscript", "onnxruntime", "openvino"}
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: name in everything - set(absent) or None)
    assert pick("auto") == chosen
    assert pick("auto", on_processor=False) == "torch"
    assert pick("auto", tta=True) == "torch"
    assert pick("auto", "bfloat16") == chosen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tensorrt",), "runtime is 'tensorrt'; choose one of torch, compile, onnx, openvino, auto"),
        (("torch", "float16"), "precision is 'float16'; choose one of float32, bfloat16"),
        (("onnx", "bfloat16"), "precision 'bfloat16' is not for runtime 'onnx'; leave it out, or use 'openvino'"),
        (("onnx", "float32", False), "runtime 'onnx' runs on the processor; give device='cpu'"),
        (("onnx", "float32", True, True), "tta looks at a picture several times, which runtime 'onnx' cannot"),
        (("compile", "float32", True, True), "tta looks at a picture several times, which runtime 'compile' cannot"),
    ],
)
def test_what_does_not_go_together(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pick(*arguments)


@pytest.mark.parametrize(("runtime", "extra"), [("onnx", "export"), ("openvino", "openvino")])
def test_missing_packages_are_named(runtime: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", missing("onnxscript"))
    with pytest.raises(InputError, match=rf"runtime '{runtime}' lacks onnxscript; pip install 'thingstuff\[{extra}\]'"):
        pick(runtime)


# --- files ---


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: there is no such file"):
        load(tmp_path / "none.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01 nothing that anybody reads"])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}[suffix])
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.\w+: .*export it again"):
        load(path)


def test_files_of_other_programs(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other\.onnx: not written by `thingstuff export`"):
        load(identity_file(tmp_path / "other.onnx", {"format": "something else"}))
    newer = write_metadata(tiny_checkpoint, 1) | {"format": "thingstuff checkpoint 99"}
    with pytest.raises(InputError, match="'thingstuff checkpoint 99' is newer than"):
        load(identity_file(tmp_path / "newer.onnx", newer))


def test_arguments_that_do_not_suit_a_file(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = identity_file(tmp_path / "a.onnx", write_metadata(tiny_checkpoint, 1))
    assert isinstance(open_exported(path, "auto", "float32", on_processor=True, tta=False), FileRuntime)
    with pytest.raises(InputError, match=r"a\.onnx: a file for runtime 'onnx' does not run with 'openvino'"):
        load(path, runtime="openvino")
    with pytest.raises(InputError, match="tta looks at a picture several times"):
        load(path, tta=True)
    with pytest.raises(InputError, match="precision 'bfloat16' is not for runtime 'onnx'"):
        load(path, precision="bfloat16")
    with pytest.raises(InputError, match="network: this model runs an exported graph"):
        _ = load(path).network


def test_a_file_needs_only_what_runs_it(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = identity_file(tmp_path / "a.onnx", write_metadata(tiny_checkpoint, 1))
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", missing("onnx", "onnxscript"))
    assert load(path).recipe == tiny_checkpoint.recipe
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", missing("onnxruntime"))
    with pytest.raises(InputError, match=r"runtime 'onnx' lacks onnxruntime; pip install 'thingstuff\[export\]'"):
        load(path)


def test_metadata_come_back(tiny_checkpoint: Checkpoint) -> None:
    found, batch = read_metadata(write_metadata(tiny_checkpoint, 3), Path("a.onnx"))
    assert found == replace(tiny_checkpoint, weights={})
    assert batch == 3


@pytest.mark.parametrize("name", ["labels", "metrics", "versions", "batch", "recipe", "credit"])
def test_damaged_metadata(tiny_checkpoint: Checkpoint, name: str) -> None:
    metadata = write_metadata(tiny_checkpoint, 1)
    del metadata[name]
    with pytest.raises(InputError, match=r"a\.onnx: its metadata is damaged \('\w+'\); export it again"):
        read_metadata(metadata, Path("a.onnx"))


# --- what a file says becomes a result ---


def fake_runtime(checkpoint: Checkpoint, batch: int = 1) -> FileRuntime:
    """A file that sees one person on the left half, and sky all around."""

    def run(images: np.ndarray, output_size: tuple[int, int]) -> dict[str, np.ndarray]:
        assert images.shape[0] == batch
        assert images.dtype == np.uint8
        height, width = output_size
        ids = np.full((batch, height, width), 2, dtype=np.int32)
        ids[:, :, : width // 2] = 1
        stuff = SCENES.num_stuff
        return {
            "panoptic_ids": ids,
            "segment_labels": np.array([[stuff, 0, 0]] * batch),
            "segment_scores": np.array([[0.75, 1, 1]] * batch, dtype=np.float32),
            "segment_areas": np.array([[height * (width // 2), height * (width - width // 2), 0]] * batch),
            "segment_valid": np.array([[True, True, False]] * batch),
            "boxes": np.array([[[0, 0, width // 2, height], [0, 0, 0, 0]]] * batch, dtype=np.float32),
            "scores": np.array([[0.75, 0]] * batch, dtype=np.float32),
            "labels": np.array([[stuff, stuff]] * batch),
            "instance_valid": np.array([[True, False]] * batch),
            "mask_logits": np.full((batch, 2, 28, 28), 5, dtype=np.float32),
            "semantic": np.where(ids == 1, stuff, 0).astype(np.uint8),
        }

    return FileRuntime(replace(checkpoint, weights={}), batch, run)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [None, (20, 30)])
def test_results_of_a_file(tiny_checkpoint: Checkpoint, batch: int, size: tuple[int, int] | None) -> None:
    found = Model.of_file(fake_runtime(tiny_checkpoint, batch))(SCENE, output_size=size)
    height, width = size or SCENE.shape[:2]
    assert found.ids is not None
    assert found.segments is not None
    assert found.instances is not None
    person, sky = SCENES.categories[SCENES.num_stuff], SCENES.categories[0]
    assert [(s.category_id, s.area) for s in found.segments] == [
        (person.id, height * width // 2),
        (sky.id, height * width // 2),
    ]
    assert found.instances.boxes.tolist() == [[0, 0, width // 2, height]]
    assert found.instances.category_ids.tolist() == [person.id]
    masks = found.instances.masks()
    assert masks is not None
    assert same(masks[0], found.ids == 1)
    assert found.semantic is not None
    assert np.unique(found.semantic).tolist() == sorted({0, sky.id})  # things are merged
    assert found.overlay().size[0] % width == 0
    assert len(found.to_coco()[1]) == 2
    assert repr(found).startswith(f"Result({width}x{height}, 2 segments")


def test_neighbours_of_one_size_go_through_a_graph_for_several_pictures_together(tiny_checkpoint: Checkpoint) -> None:
    file = fake_runtime(tiny_checkpoint, 3)
    runs: list[tuple[int, ...]] = []

    def watched(images: np.ndarray, output_size: tuple[int, int]) -> dict[str, np.ndarray]:
        runs.append((*images[:, 0, 0, 0].tolist(), *output_size))
        values = dict(file.run(images, output_size))
        values["scores"] = values["scores"] * images[:, :1, 0, 0] / 100  # so that pictures can be told apart
        return values

    model = Model.of_file(replace(file, run=watched))
    sizes = [(8, 10)] * 4 + [(12, 10)] + [(8, 10)] * 2
    pictures = [np.full((*size, 3), value, dtype=np.uint8) for value, size in enumerate(sizes, start=1)]
    found = model(pictures)
    assert runs == [(1, 2, 3, 8, 10), (4, 4, 4, 8, 10), (5, 5, 5, 12, 10), (6, 7, 7, 8, 10)]
    assert [result.ids.shape for result in found if result.ids is not None] == sizes
    for value, (result, picture) in enumerate(zip(found, pictures, strict=True), start=1):
        assert result.instances is not None
        assert result.instances.scores.tolist() == pytest.approx([0.0075 * value])
        assert same(result.image, picture)
    runs.clear()
    assert {result.ids.shape for result in model(pictures, output_size=(5, 6)) if result.ids is not None} == {(5, 6)}
    assert len(runs) == 4
    assert model([]) == []


def test_pixels_of_other_channels_are_float(tiny_checkpoint: Checkpoint) -> None:
    assert pixel_type(tiny_checkpoint) == "uint8"
    picture = tiny_checkpoint.recipe.picture.model_copy(update={"channels": 5})
    five = replace(tiny_checkpoint, recipe=tiny_checkpoint.recipe.model_copy(update={"picture": picture}))
    assert pixel_type(five) == "float32"
