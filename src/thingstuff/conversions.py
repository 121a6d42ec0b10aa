"""Conversions of checkpoints for other runtimes, made at their first use and kept for the next time."""

import hashlib
import importlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from thingstuff.checkpoint import Checkpoint, write_synced
from thingstuff.errors import FileDiffers, InputError
from thingstuff.progress import announce
from thingstuff.published import cache_folder
from thingstuff.runtimes import PACKAGES, SUFFIXES, ExportKind, FileRuntime, open_exported, write_metadata
from thingstuff.structures import Precision


def converted(checkpoint: Checkpoint, kind: Literal["onnx", "openvino"], precision: Precision) -> FileRuntime:
    """What runs a checkpoint; converted at its first use, and kept in the folder for caches.

    Several processes may ask at the same time; one converts, the others wait for it. That a conversion differs from
    its network is kept as well, because that takes as long to find out.

    Raises:
        InputError: The conversion fails or differs from the network, or the folder cannot be written.
    """
    from thingstuff.export import export_checkpoint

    folder = cache_folder() / "runtimes"
    path = folder / f"{fingerprint(checkpoint, kind)}{SUFFIXES[kind]}"
    if found := _open_kept(path, kind, precision):
        return found
    with _alone(path):
        if found := _open_kept(path, kind, precision):  # another process was faster
            return found
        for leftover in folder.glob(f".{path.stem}.*"):  # of a conversion that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            export_checkpoint(checkpoint, kind, path)
        except FileDiffers as error:
            write_synced(_refusal(path), str(error).encode())
            raise
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise _unwritable(folder, error.__cause__) from error
            raise
    found = open_exported(path, kind, precision, on_processor=True, tta=False)
    assert isinstance(found, FileRuntime)
    return found


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process makes this file."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            announce("waiting for another process, which converts the same network")
            lock.acquire()
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(folder: Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{folder}: cannot be written ({reason}); set THINGSTUFF_CACHE to a folder for conversions")


def _open_kept(path: Path, kind: ExportKind, precision: Precision) -> FileRuntime | None:
    """A conversion that was kept; None where there is none, or a damaged one, which is then made anew.

    Raises:
        FileDiffers: It was made before, and refused.
    """
    refusal = _refusal(path)
    if refusal.exists():
        raise FileDiffers(f"{refusal.read_text(encoding='utf-8')} (found before; delete {refusal} to try again)")
    try:
        found = open_exported(path, kind, precision, on_processor=True, tta=False) if path.exists() else None
    except InputError:
        return None
    assert not isinstance(found, Checkpoint)
    return found


def _refusal(path: Path) -> Path:
    """Where it stands why a conversion differs from its network."""
    return path.with_suffix(".refused")


def _version(package: str) -> str:
    """Of a package that can be imported; it may be installed under another name, as onnxruntime-gpu is."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(importlib.import_module(package).__version__)


@cache
def _code_of_graphs() -> str:
    """A name that changes with the code that makes graphs, also between two versions of this package."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted((*folder.glob("export/*.py"), *folder.glob("model/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def fingerprint(checkpoint: Checkpoint, kind: ExportKind) -> str:
    """A name that changes with everything a conversion depends on: weights, recipe, classes, versions, our code."""
    packages = ("thingstuff", "torch", "torchvision", "timm", *PACKAGES[kind])
    digest = hashlib.sha256()
    versions = ((name, _version(name)) for name in packages)
    texts: list[Any] = [kind, _code_of_graphs(), *versions, *write_metadata(checkpoint, 1).items()]
    digest.update(json.dumps(texts).encode())
    for name, tensor in sorted(checkpoint.weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
