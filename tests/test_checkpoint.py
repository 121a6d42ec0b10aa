import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from thingstuff import checkpoint as module
from thingstuff.checkpoint import FORMAT, Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint, write_synced
from thingstuff.data.scenes import SCENES
from thingstuff.errors import InputError
from thingstuff.recipe import derive


@pytest.fixture
def path(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Path:
    path = tmp_path / "new folder" / "network.safetensors"
    save_checkpoint(path, tiny_checkpoint)
    return path


# --- there and back ---


def test_float32_comes_back_exactly(path: Path, tiny_checkpoint: Checkpoint) -> None:
    found = load_checkpoint(path)
    assert found.weights.keys() == tiny_checkpoint.weights.keys()
    for name, tensor in tiny_checkpoint.weights.items():
        assert found.weights[name].dtype == tensor.dtype
        assert torch.equal(found.weights[name], tensor), name
    assert found.recipe == tiny_checkpoint.recipe
    assert found.labels == SCENES
    assert (found.metrics, found.credit) == ({"pq": 0.5}, "nobody's")
    assert found.versions == tiny_checkpoint.versions
    assert {"python", "torch", "thingstuff"} <= found.versions.keys()


def test_float16_comes_back_close_and_takes_half_the_space(
    tmp_path: Path, path: Path, tiny_checkpoint: Checkpoint
) -> None:
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, tiny_checkpoint, torch.float16)
    assert half.stat().st_size < 0.55 * path.stat().st_size
    for name, tensor in load_checkpoint(half).weights.items():
        assert tensor.dtype == tiny_checkpoint.weights[name].dtype
        torch.testing.assert_close(tensor, tiny_checkpoint.weights[name], rtol=1e-3, atol=1e-6)


def test_whole_numbers_stay_whole_numbers(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    count = torch.tensor(2**24 + 1)
    save_checkpoint(tmp_path / "half", replace(tiny_checkpoint, weights={"count": count}), torch.float16)
    assert load_checkpoint(tmp_path / "half").weights["count"].equal(count)


def test_the_memory_format_does_not_matter(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    weights = {"weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()}
    save_checkpoint(tmp_path / "one", replace(tiny_checkpoint, weights=weights))
    assert torch.equal(load_checkpoint(tmp_path / "one").weights["weight"], weights["weight"])


def test_the_file_says_what_it_is(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == FORMAT
    assert json.loads(metadata["recipe"])["name"] == "tiny"
    labels = json.loads(metadata["labels"])
    assert labels[6] == {"id": 7, "name": "car", "isthing": 1, "color": [214, 57, 70], "supercategory": "car"}


def test_the_network_computes_what_it_did(path: Path, tiny_checkpoint: Checkpoint) -> None:
    images = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    networks = [checkpoint.network() for checkpoint in (tiny_checkpoint, load_checkpoint(path))]
    assert not networks[1].training
    outputs = [network(images, torch.tensor([[64, 96]])) for network in networks]
    assert torch.equal(outputs[0].semantic.logits, outputs[1].semantic.logits)
    assert torch.equal(outputs[0].instances.mask_logits, outputs[1].instances.mask_logits)


def test_nothing_is_fetched_for_a_backbone_that_began_with_other_weights(tiny_checkpoint: Checkpoint) -> None:
    recipe = derive(tiny_checkpoint.recipe, model__backbone__pretrained=True)
    network = replace(tiny_checkpoint, recipe=recipe).network()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tiny_checkpoint.weights[name])


# --- weights that do not fit ---


def without(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in weights.items() if name != "semantic.predictor.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, r"recipe tiny: lacks 1 tensors, first semantic\.predictor\.bias; it was written for another network"),
        (lambda weights: weights | {"zoo": torch.zeros(1)}, "has no place for 1 tensors, first zoo"),
        (
            lambda weights: weights | {"semantic.predictor.bias": torch.zeros(99)},
            r"has another shape of 1 tensors, first semantic\.predictor\.bias",
        ),
    ],
)
def test_weights_of_another_network(
    tiny_checkpoint: Checkpoint, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(tiny_checkpoint, weights=change(dict(tiny_checkpoint.weights))).network()


# --- files that are no checkpoints ---


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors: there is no such checkpoint; .*tiny-scenes"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_a_folder(path: Path) -> None:
    with pytest.raises(InputError, match=r"new folder: this is a folder, not a checkpoint; name the \.safetensors"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("size", [0, 4, 8, 100, 0.5, 0.999])
def test_a_file_cut_short(path: Path, size: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(size if size >= 4 else size * len(content))])
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "copy or download it again" in text
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(5000), b"{}" * 99, b"\xff" * 64])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.bin: not a checkpoint; name a \.safetensors file"):
        load_checkpoint(tmp_path / "model.bin")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_an_exported_file_is_no_checkpoint(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"model{suffix}").write_bytes(bytes(10))
    with pytest.raises(InputError, match=r"an exported file, not a checkpoint; name the \.safetensors file"):
        load_checkpoint(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.pkl"])
def test_weights_of_another_project_are_shown_the_way(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(10))
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / name)
    assert str(caught.value) == (
        f"{tmp_path / name}: weights of another project; make a checkpoint of them: "
        f"thingstuff convert PROJECT {tmp_path / name} {tmp_path / 'model.safetensors'}"
    )


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_safetensors_file_of_somebody_else(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(InputError, match=r"a safetensors file, but not a thingstuff checkpoint; name one that"):
        load_checkpoint(tmp_path / "other.safetensors")


def rewrite(path: Path, **changes: str) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | changes)


def test_a_newer_format(path: Path) -> None:
    rewrite(path, format="thingstuff checkpoint 2")
    with pytest.raises(InputError, match=r"'thingstuff checkpoint 2' is newer than .*; update with pip install -U"):
        load_checkpoint(path)


def test_a_recipe_with_a_field_of_a_newer_version(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    rewrite(path, recipe=json.dumps(recipe | {"novelty": 1}))
    with pytest.raises(InputError, match=r"network\.safetensors: recipe: novelty is not a field"):
        load_checkpoint(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(InputError, match=r"network\.safetensors: cannot be read"):
        load_checkpoint(path)


def test_names_of_bundled_networks_are_found() -> None:
    assert find_checkpoint("tiny-scenes").name == "tiny-scenes.safetensors"


# --- writing ---


def test_a_failing_write_leaves_the_old_file(
    path: Path, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"network\.safetensors: cannot be written \(No space left on device\)"):
        save_checkpoint(path, replace(tiny_checkpoint, credit="new"))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_interrupted_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def interrupt(*_paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_synced(path, b"new")
    assert path.read_bytes() == before
    write_synced(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("below", ["network.safetensors", "folder/network.safetensors"])
def test_a_file_in_place_of_the_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"file/.*: cannot be written \(.+\); choose another folder"):
        write_synced(tmp_path / "file" / below, b"new")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match="folder: cannot be written"):
        write_synced(tmp_path / "folder", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        write_synced(tmp_path / "file", b"new")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, tiny_checkpoint: Checkpoint, value: float) -> None:
    name = "neck.lateral.0.0.weight"
    broken = {**tiny_checkpoint.weights, name: torch.full_like(tiny_checkpoint.weights[name], value)}
    save_checkpoint(tmp_path / "broken.safetensors", replace(tiny_checkpoint, weights=broken))
    with pytest.raises(InputError, match=rf"broken\.safetensors: tensor {name} is not made of finite numbers"):
        load_checkpoint(tmp_path / "broken.safetensors")


@pytest.mark.parametrize("metadata", [{}, {"labels": "{"}, {"labels": "null"}])
def test_damaged_metadata_is_named(tmp_path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    whole = {"format": FORMAT, "recipe": "{}", "labels": "[]", "metrics": "{}", "versions": "{}", "credit": ""}
    content = whole | metadata if metadata else {"format": FORMAT}
    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors", content)
    with pytest.raises(InputError, match=r"c\.safetensors: its metadata is damaged \(.*\); copy or download it again"):
        load_checkpoint(tmp_path / "c.safetensors")
