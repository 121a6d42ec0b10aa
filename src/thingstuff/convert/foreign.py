"""Reading the weight files of other projects without running anything that stands in them."""

import collections
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thingstuff.errors import InputError


@dataclass(frozen=True, slots=True)
class ForeignWeights:
    """The weights of another project's file.

    Attributes:
        tensors: By the other project's names.
        author: Who the file says has made it; empty if it does not.
    """

    tensors: Mapping[str, Tensor]
    author: str = ""


def read_weights(path: Path | str) -> ForeignWeights:
    """Read a `.pkl` of Detectron2's model zoo or a `.pth` that torch has saved.

    The weights may stand alone, or under ``model`` (Detectron2), ``state_dict`` (mmdetection) or ``blobs`` (Caffe2);
    what stands beside them (optimiser, schedule, step) is left out, and so is `module.`, where every name begins with
    it: the network was trained wrapped for several GPUs.

    Raises:
        InputError: The file is missing or damaged, asks for code to be run, or holds no weights.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; give the .pkl or .pth to convert")
    content = _read_pickle(file) if file.suffix == ".pkl" and not zipfile.is_zipfile(file) else _read_torch(file)
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: holds {type(content).__name__}, not weights by name; give a checkpoint")
    author = content.get("__author__")
    for key in ("model", "state_dict", "blobs"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {
        str(name): tensor for name, value in content.items() if (tensor := _as_tensor(name, value, file)) is not None
    }
    if not tensors:
        raise InputError(f"{file}: holds no weights; give a checkpoint with weights by name, or under 'model'")
    if all(name.startswith(_WRAPPED) for name in tensors):
        tensors = {name.removeprefix(_WRAPPED): tensor for name, tensor in tensors.items()}
    return ForeignWeights(tensors, author if isinstance(author, str) else "")


_WRAPPED = "module."
_TORCH_BEGINS = (b"PK\x03\x04", b"\x80")
"""What ``torch.save`` begins a file with: a zip archive, or a pickle before version 1.6."""


def _as_tensor(name: Any, value: Any, file: Path) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(name, str) and name.startswith("__"):
        return None
    raise InputError(f"{file}: {name!r} is {type(value).__name__}, not an array; give a file that holds only weights")


def _read_torch(file: Path) -> Any:
    try:
        with open(file, "rb") as opened:
            beginning = opened.read(4)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    # torch takes the first bytes of any other file for instructions, and refuses them as if they were dangerous.
    if not beginning.startswith(_TORCH_BEGINS):
        raise InputError(f"{file}: not a file of torch.save, or damaged; give a checkpoint, or download it again")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file}: refused, it holds more than weights, and to read that would run its code; where you trust it, "
            "keep its weights alone: torch.save(torch.load(FILE, weights_only=False)['model'], NEW), or ['state_dict']"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{file}: not a file of torch.save, or damaged; copy or download it again") from error


def _read_pickle(file: Path) -> Any:
    try:
        with open(file, "rb") as opened:
            return _WeightsUnpickler(opened, encoding="latin1").load()
    except _RefusedError as error:
        raise InputError(
            f"{file}: refused, it asks for {error}, which no weight file needs; nothing of it was run. "
            "Download the file again from where it was published"
        ) from None
    except Exception as error:  # a damaged pickle fails in every way there is
        raise InputError(f"{file}: not a pickle of weights, or damaged; copy or download it again") from error


class _RefusedError(Exception):
    """A pickle asked for something that is not on the list."""


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """What Python 3 writes in old pickle protocols for bytes."""
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


def _from_buffer(content: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """What numpy writes for arrays in pickle protocol 5."""
    return np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")


# numpy moved its functions between versions; both names occur in files.
_reconstruct = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1_bytes,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
for _builtin in (dict, list, tuple, set, frozenset, bool, int, float, complex, str, bytes):
    _ALLOWED["builtins", _builtin.__name__] = _ALLOWED["__builtin__", _builtin.__name__] = _builtin


class _WeightsUnpickler(pickle.Unpickler):
    """Knows arrays and plain values, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few names that arrays need."""
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]
