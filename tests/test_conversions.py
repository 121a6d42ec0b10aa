"""Conversions that are kept: made once, made anew where something changed, and refused for good where they differ."""

import errno
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from onnx_files import identity_file
from thingstuff import conversions
from thingstuff.checkpoint import Checkpoint
from thingstuff.conversions import converted, fingerprint
from thingstuff.data.scenes import draw_scene
from thingstuff.errors import FileDiffers, InputError
from thingstuff.predict import Model
from thingstuff.runtimes import write_metadata

SCENE = draw_scene(3, 0, (64, 96)).image


def test_a_conversion_is_made_once_and_kept(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path))
    made: list[Path] = []

    def export(checkpoint: Checkpoint, kind: str, out: Path) -> None:
        made.append(identity_file(out, write_metadata(checkpoint, 1)))
        assert kind == "onnx"

    monkeypatch.setattr("thingstuff.export.export_checkpoint", export)
    for _ in range(2):
        assert converted(tiny_checkpoint, "onnx", "float32").checkpoint.recipe == tiny_checkpoint.recipe
    assert made == [tmp_path / "runtimes" / f"{fingerprint(tiny_checkpoint, 'onnx')}.onnx"]
    converted(replace(tiny_checkpoint, credit="somebody's"), "onnx", "float32")
    assert len(made) == 2


def test_a_name_for_everything_that_matters(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    name, tensor = next(iter(tiny_checkpoint.weights.items()))
    other = replace(tiny_checkpoint, weights={**tiny_checkpoint.weights, name: tensor + 1})
    monkeypatch.setattr(conversions, "version", lambda package: "1")
    names = {fingerprint(tiny_checkpoint, "onnx"), fingerprint(other, "onnx"), fingerprint(tiny_checkpoint, "openvino")}
    assert fingerprint(tiny_checkpoint, "onnx") in names
    monkeypatch.setattr(conversions, "version", lambda package: "2")
    assert len(names | {fingerprint(tiny_checkpoint, "onnx")}) == 4


def test_a_cache_that_cannot_be_made(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set THINGSTUFF_CACHE to a folder for conversions"):
        converted(tiny_checkpoint, "onnx", "float32")


def test_a_damaged_conversion_is_made_anew_and_leftovers_go(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path))
    path = tmp_path / "runtimes" / f"{fingerprint(tiny_checkpoint, 'onnx')}.onnx"
    (path.parent / f".{path.stem}.killed").mkdir(parents=True)
    (path.parent / ".another.running").mkdir()
    path.write_bytes(b"cut short")
    monkeypatch.setattr(
        "thingstuff.export.export_checkpoint",
        lambda checkpoint, kind, out: identity_file(out, write_metadata(checkpoint, 1)),
    )
    assert converted(tiny_checkpoint, "onnx", "float32").checkpoint.recipe == tiny_checkpoint.recipe
    assert sorted(one.name for one in path.parent.glob(".*")) == [".another.running"]


def test_a_package_under_another_name(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu is imported as onnxruntime."""
    pytest.importorskip("onnxruntime")
    usual = fingerprint(tiny_checkpoint, "onnx")

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(conversions, "version", lambda name: absent(name) if name == "onnxruntime" else version(name))
    assert fingerprint(tiny_checkpoint, "onnx") == usual


def test_other_code_makes_another_conversion(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = fingerprint(tiny_checkpoint, "openvino")
    package = Path(conversions.__file__).parent
    for folder in ("export", "model"):
        shutil.copytree(package / folder, tmp_path / folder)
    with (tmp_path / "model" / "merge_graph.py").open("a") as file:
        file.write("# another\n")
    monkeypatch.setattr(conversions, "__file__", str(tmp_path / "conversions.py"))
    conversions._code_of_graphs.cache_clear()
    assert fingerprint(tiny_checkpoint, "openvino") != usual
    monkeypatch.undo()
    conversions._code_of_graphs.cache_clear()
    assert fingerprint(tiny_checkpoint, "openvino") == usual


def test_that_a_conversion_differs_is_found_out_once(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path))
    calls: list[Path] = []

    def export(checkpoint: Checkpoint, kind: str, out: Path) -> None:
        calls.append(out)
        raise FileDiffers(f"{out}: not written, because it differs")

    monkeypatch.setattr("thingstuff.export.export_checkpoint", export)
    with pytest.raises(FileDiffers, match=r"because it differs$"):
        converted(tiny_checkpoint, "onnx", "float32")
    with pytest.raises(FileDiffers, match=r"because it differs \(found before; delete .*\.refused to try again\)$"):
        converted(tiny_checkpoint, "onnx", "float32")
    assert len(calls) == 1
    calls[0].with_suffix(".refused").unlink()
    with pytest.raises(FileDiffers, match=r"because it differs$"):
        converted(tiny_checkpoint, "onnx", "float32")


def test_a_full_disk_asks_for_another_cache(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path))
    monkeypatch.setattr("thingstuff.export._write", full)
    with pytest.raises(InputError, match=r"runtimes: cannot be written \(No space left .*; set THINGSTUFF_CACHE"):
        converted(tiny_checkpoint, "onnx", "float32")
    assert not list((tmp_path / "runtimes").glob("*.refused"))


def while_another_converts(path: Path, finish: Callable[[], object]) -> threading.Thread:
    """Somebody else, who has begun, and ends in two seconds."""
    begun = threading.Event()

    def convert() -> None:
        with FileLock(path.with_suffix(".lock")):
            begun.set()
            time.sleep(2)
            finish()

    path.parent.mkdir()
    other = threading.Thread(target=convert)
    other.start()
    begun.wait()
    return other


def test_a_second_process_says_that_it_waits(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path))
    path = tmp_path / "runtimes" / f"{fingerprint(tiny_checkpoint, 'onnx')}.onnx"
    other = while_another_converts(path, lambda: identity_file(path, write_metadata(tiny_checkpoint, 1)))
    assert converted(tiny_checkpoint, "onnx", "float32").batch == 1
    other.join()
    assert "waiting for another process, which converts the same network" in capsys.readouterr().err


def test_who_has_waited_does_not_try_again_what_was_refused(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path))
    monkeypatch.setattr("thingstuff.export.export_checkpoint", None)
    path = tmp_path / "runtimes" / f"{fingerprint(tiny_checkpoint, 'onnx')}.onnx"
    other = while_another_converts(path, lambda: path.with_suffix(".refused").write_text("it differs"))
    with pytest.raises(FileDiffers, match=r"it differs \(found before"):
        converted(tiny_checkpoint, "onnx", "float32")
    other.join()


@pytest.mark.parametrize("error", [RuntimeError("FakeTensor\n  mode"), ImportError("no such rule")])
def test_auto_takes_torch_where_the_exporter_fails(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path))
    monkeypatch.setattr("thingstuff.export._write", fail)
    monkeypatch.setattr("thingstuff.predict.pick_runtime", lambda *_, **__: "openvino")
    with pytest.warns(UserWarning, match=r"takes torch: .*cannot be brought to openvino \(\w+Error: \w+"):
        assert Model(tiny_checkpoint, runtime="auto")(SCENE).ids is not None


def test_auto_takes_torch_where_the_cache_cannot_be_written(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path / "file"))
    expected = Model(tiny_checkpoint)(SCENE).ids
    monkeypatch.setattr("thingstuff.predict.pick_runtime", lambda *_, **__: "openvino")
    with pytest.warns(UserWarning, match="runtime 'auto' takes torch: .* set THINGSTUFF_CACHE"):
        model = Model(tiny_checkpoint, runtime="auto")
    found = model(SCENE).ids
    assert found is not None
    assert expected is not None
    assert np.array_equal(found, expected)
    with pytest.raises(InputError, match="set THINGSTUFF_CACHE"):
        Model(tiny_checkpoint, runtime="openvino")
