"""A network as a file of ``torch.export``, and its weights back from it without running anything.

``torch.export.load`` is made for trusted files: it unpickles, and evaluates expressions. Here the graph in the file is
left alone; the network is built from the recipe, and the weights are read as the raw numbers that they are.
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._export.serde.schema import ScalarType

from thingstuff.checkpoint import Checkpoint
from thingstuff.errors import InputError
from thingstuff.export.graph import ExportedGraph, check_sides, trace
from thingstuff.runtimes import FileRuntime, read_metadata
from thingstuff.structures import Size

_METADATA = "thingstuff.json"
_DTYPES = {ScalarType.FLOAT: torch.float32, ScalarType.LONG: torch.int64, ScalarType.BOOL: torch.bool}
"""What networks are made of."""
_PREFIX = "network."
"""The graph's name of the network."""


def write_torch_file(
    graph: ExportedGraph, batch: int, channels: int, dtype: torch.dtype, metadata: dict[str, str], path: Path
) -> None:
    """Write a network for ``torch.export.load``, which needs torchvision's operators and nothing of ours."""
    program = trace(graph, batch, channels, dtype)
    torch.export.save(program, path, extra_files={_METADATA: json.dumps(metadata)})


def run_trusted_file(path: Path) -> FileRuntime:
    """What runs the graph in a file; only for files that this process has just written.

    Raises:
        InputError: When a picture is smaller than the graph takes.
    """
    graph = torch.export.load(path).module()
    checkpoint = read_torch_file(path)
    names = ExportedGraph(checkpoint.network(), checkpoint.labels.num_stuff, flagged_nms=False).output_names

    def run(images: np.ndarray, output_size: Size) -> dict[str, np.ndarray]:
        check_sides((images.shape[1], images.shape[2]), "a picture")
        with torch.no_grad():
            values = graph(torch.from_numpy(images), torch.empty(output_size, dtype=torch.uint8))
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}

    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(f"/extra/{_METADATA}")]
        _, batch = read_metadata(json.loads(archive.read(name)), path)
    return FileRuntime(checkpoint, batch, run)


def read_torch_file(path: Path) -> Checkpoint:
    """Read weights and metadata; the graph is not looked at.

    Raises:
        InputError: The file is damaged, of another program, or holds something else than plain numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if f"extra/{_METADATA}" not in names:
                raise InputError(f"{path}: not written by `thingstuff export`; it holds no recipe, so export again")
            checkpoint, _ = read_metadata(json.loads(archive.read(names[f"extra/{_METADATA}"])), path)
            config = json.loads(archive.read(names["data/weights/model_weights_config.json"]))["config"]
            weights = {
                name.removeprefix(_PREFIX): _read_tensor(archive, names, entry, path) for name, entry in config.items()
            }
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); export it again") from error
    return replace(checkpoint, weights=weights)


def _read_tensor(archive: zipfile.ZipFile, names: dict[str, str], entry: dict[str, Any], path: Path) -> Tensor:
    if entry["use_pickle"]:
        raise InputError(f"{path}: holds pickled objects, which could run code when they are read; export it again")
    meta = entry["tensor_meta"]
    dtype = _DTYPES[ScalarType(meta["dtype"])]
    sizes, strides = ([side["as_int"] for side in meta[field]] for field in ("sizes", "strides"))
    values = torch.frombuffer(bytearray(archive.read(names[f"data/weights/{entry['path_name']}"])), dtype=dtype)
    return values.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()
