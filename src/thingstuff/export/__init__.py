"""From a checkpoint to a file that other runtimes run: pictures in, panoptic map, segments and instances out.

Every file is compared with the network on pictures before it gets its name; one that differs is not left behind.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from thingstuff.checkpoint import Checkpoint
from thingstuff.data.images import read_picture
from thingstuff.data.transforms import target_size
from thingstuff.errors import InputError
from thingstuff.progress import announce
from thingstuff.recipe_model import PictureConfig
from thingstuff.runtimes import SUFFIXES, ExportKind, pixel_type, require_packages, write_metadata

if TYPE_CHECKING:
    from thingstuff.export.check import Difference

MAX_BATCH = 64
"""More pictures at once than that only make the graph larger."""


def export_checkpoint(
    checkpoint: Checkpoint, kind: ExportKind, out: Path, *, batch: int = 1, pictures: Sequence[Path] = ()
) -> "list[Difference]":
    """Write a network as a file for another runtime, and compare it with the network.

    Args:
        checkpoint: The network.
        kind: For which runtime.
        out: Where; the name ends as ``SUFFIXES`` says. OpenVINO's weights stand beside it, in a `.bin` file.
        batch: Pictures that the file takes at once, all of one size.
        pictures: Compared on these as well, besides procedural ones.

    Returns:
        What the comparison found, picture by picture.

    Raises:
        InputError: Something is missing, the file cannot be written, or it differs from the network.
    """
    from thingstuff.export.check import compare, refuse

    check_target(kind, out, batch)
    _check_pictures(checkpoint.recipe.picture, kind, pictures)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}.") as folder:
            aside = Path(folder) / out.name
            announce("writing the graph, which may take minutes")
            _write(checkpoint, kind, aside, batch)
            announce("comparing it with the network on pictures")
            differences = compare(checkpoint, aside, pictures)
            refuse(differences, out)
            for part in (aside.with_suffix(".bin"), aside):  # the one that names the other comes last
                if part.exists():
                    os.replace(part, out.with_name(part.name))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from error
    except Exception as error:  # exporters and runtimes have exceptions of their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{out}: not written, because the network cannot be brought to {kind} ({reason}); use the checkpoint, or "
            "another runtime"
        ) from error
    return differences


def check_target(kind: ExportKind, out: Path, batch: int) -> None:
    """Make sure that a file can be written, before a network is fetched or looked at.

    Raises:
        InputError: Its name or batch is wrong, or a package is missing.
    """
    if not out.name or out.is_dir():
        raise InputError(f"{out}: is a folder; give the name of a file that ends in {SUFFIXES[kind]}")
    if out.suffix != SUFFIXES[kind]:
        raise InputError(f"{out}: a file for {kind} ends in {SUFFIXES[kind]}; give {out.with_suffix(SUFFIXES[kind])}")
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"batch is {batch}; give 1 to {MAX_BATCH}")
    require_packages(kind)


def _check_pictures(config: PictureConfig, kind: ExportKind, pictures: Sequence[Path]) -> None:
    """A wrong picture is said now, not after minutes."""
    from thingstuff.export.graph import check_sides

    for path in pictures:
        image = read_picture(path, config.channels, config.pixels)
        if kind == "torch":
            check_sides(target_size((image.shape[0], image.shape[1]), config.short_side, config.max_side), str(path))


def _write(checkpoint: Checkpoint, kind: ExportKind, path: Path, batch: int) -> None:
    from thingstuff.export.graph import ExportedGraph

    graph = ExportedGraph(checkpoint.network(), checkpoint.labels.num_stuff, flagged_nms=kind != "torch").eval()
    picture = batch, checkpoint.recipe.picture.channels, getattr(torch, pixel_type(checkpoint))
    metadata = write_metadata(checkpoint, batch)
    if kind == "torch":
        from thingstuff.export.torch_file import write_torch_file

        return write_torch_file(graph, *picture, metadata, path)
    import onnx

    from thingstuff.export.onnx_file import to_onnx

    model = to_onnx(graph, *picture)
    onnx.helper.set_model_props(model, metadata)
    onnx_path = path.with_suffix(".onnx")
    onnx.save(model, onnx_path)
    if kind == "openvino":
        from thingstuff.export.openvino_file import write_openvino_file

        write_openvino_file(onnx_path, metadata, path)
    return None
