"""Trained networks by name: fetched from where they were published, checked, converted and kept."""

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from filelock import FileLock
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from thingstuff.checkpoint import save_checkpoint
from thingstuff.convert.detectron2 import RELEASED, ReleasedFile, convert_detectron2
from thingstuff.errors import InputError
from thingstuff.progress import announce, console

BASE_URL = "https://dl.fbaipublicfiles.com/detectron2/"
"""Address of Detectron2's model zoo."""

PUBLISHED: Mapping[str, ReleasedFile] = dict(
    zip(("coco/panoptic-fpn-r50-1x", "coco/panoptic-fpn-r50-3x", "coco/panoptic-fpn-r101-3x"), RELEASED, strict=True)
)
"""Networks that can be loaded by name."""

_CHUNK = 1 << 18
_ATTEMPTS_WITHOUT_PROGRESS = 2


def published_checkpoint(
    name: str,
    *,
    cache: Path | None = None,
    base_url: str = BASE_URL,
    released: Mapping[str, ReleasedFile] = PUBLISHED,
    timeout: float = 30.0,
) -> Path:
    """The checkpoint of a published network; fetched and converted at its first use, and kept.

    A download that breaks off goes on where it stopped, at once or at the next call. Several processes may ask at the
    same time; one fetches, the others wait for it.

    Args:
        name: One of ``PUBLISHED``.
        cache: Folder to keep it in; None: ``cache_folder()``.
        base_url: Address below which the files are.
        released: The files by name.
        timeout: Seconds without an answer after which the server counts as away.

    Raises:
        InputError: There is no such name, the file cannot be fetched, or it is not the one that was published.
    """
    if name not in released:
        raise InputError(f"there is no published network {name!r}; there are: {', '.join(released)}")
    checkpoint = (cache or cache_folder()) / f"{name}.safetensors"
    if checkpoint.exists():
        return checkpoint
    _make_folder(checkpoint.parent)
    with FileLock(checkpoint.with_suffix(".lock")):
        if not checkpoint.exists():
            _fetch_and_convert(name, released[name], checkpoint, base_url, timeout)
    return checkpoint


def cache_folder() -> Path:
    """Where downloads are kept: ``$THINGSTUFF_CACHE``, or ``thingstuff`` in the platform's folder for caches."""
    if named := os.environ.get("THINGSTUFF_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "thingstuff" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "thingstuff"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "thingstuff"


def _fetch_and_convert(name: str, released: ReleasedFile, checkpoint: Path, base_url: str, timeout: float) -> None:
    url = base_url + released.path
    part = checkpoint.with_suffix(".pkl.part")
    whole = checkpoint.with_suffix(".pkl")
    try:
        _download(url, part, name, timeout)
    except (OSError, HTTPException) as error:
        raise InputError(_advice(name, url, checkpoint, part, error)) from error
    problem = _wrong_hash(part, released)
    if problem:
        part.unlink()
        raise InputError(
            f"{name}: {url} is not the published file ({problem}), so it was deleted; try again, and if it happens "
            "again, something between here and the server changes downloads"
        )
    part.replace(whole)
    save_checkpoint(checkpoint, convert_detectron2(whole))
    whole.unlink()
    announce(f"{name}: kept in {checkpoint}\nWeights: {released.credit}")


def _download(url: str, part: Path, name: str, timeout: float) -> None:
    """Fetch the file, going on where an earlier attempt stopped, as long as attempts bring something."""
    idle = 0
    with _byte_progress() as progress:
        task = progress.add_task(name, total=None)
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _download_rest(url, part, before, timeout, progress, task)
                return
            except (OSError, HTTPException) as error:
                final = isinstance(error, urllib.error.HTTPError) and error.code < 500
                idle = 0 if part.exists() and part.stat().st_size > before else idle + 1
                if final or idle >= _ATTEMPTS_WITHOUT_PROGRESS:
                    raise


def _download_rest(url: str, part: Path, start: int, timeout: float, progress: Progress, task: TaskID) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "thingstuff"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to fetch, or less is there than before: the hash will tell
            return
        raise
    with response:
        done = start if _goes_on_at(response, start) else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with open(part, "ab" if done else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress.update(task, completed=done, total=total)
    if total is not None and done < total:
        raise ConnectionError(f"it broke off after {done} of {total} bytes")


def _goes_on_at(response: HTTPResponse, start: int) -> bool:
    """Whether the server sends the rest from ``start``; servers may send everything instead."""
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _byte_progress() -> Progress:
    """A progress bar in bytes; silent when standard error is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _wrong_hash(file: Path, released: ReleasedFile) -> str | None:
    """What is wrong with the hash of a file, or None."""
    expected = [("md5", released.md5_prefix)] + ([("sha256", released.sha256)] if released.sha256 else [])
    for kind, beginning in expected:
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, kind).hexdigest()
        if not digest.startswith(beginning):
            return f"its {kind} is {digest}, it should begin with {beginning}"
    return None


def _advice(name: str, url: str, checkpoint: Path, part: Path, error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    kept = f" {part.stat().st_size / 1e6:.1f} MB are kept, the next try goes on there." if part.exists() else ""
    return (
        f"{name}: cannot be fetched from {url} ({reason}).{kept} Without a network, fetch that address elsewhere, run "
        f"`thingstuff convert detectron2 FILE {checkpoint}`, and the name will work"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); set THINGSTUFF_CACHE to a folder for downloads"
        ) from error
