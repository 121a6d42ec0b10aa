"""One file that holds a trained network and everything needed to use it.

A checkpoint is a `.safetensors` file: tensors, which cannot execute anything, and metadata as JSON text with the
recipe, the label set, metrics and versions.
"""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.model.build import build_network
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.recipe import Recipe, derive, read_recipe

FORMAT = "thingstuff checkpoint 1"
"""Changes when older versions of this package could no longer read the file."""

BUNDLED = ("tiny-scenes", "tiny-facades", "tiny-nuclei")
"""Names of the networks that come with the package."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network at rest.

    Attributes:
        weights: Tensors by their names in the network.
        recipe: What the network is and how it was trained.
        labels: The classes it knows.
        metrics: Fractions, by name.
        credit: Licence of the weights and of the data they were trained on, and whom to name.
        versions: Of this package, torch and others, when it was written.
    """

    weights: Mapping[str, Tensor]
    recipe: Recipe
    labels: LabelSet
    metrics: Mapping[str, Any] = field(default_factory=dict)
    credit: str = ""
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())

    def network(self) -> PanopticSegmenter:
        """Build the network and give it the weights.

        Raises:
            InputError: The weights do not belong to the recipe.
        """
        # The weights come from here; nothing is to be fetched for the backbone.
        network = build_network(derive(self.recipe, model__backbone__pretrained=False), self.labels)
        expected = network.state_dict()
        missing, unexpected = expected.keys() - self.weights.keys(), self.weights.keys() - expected.keys()
        wrong = [
            name for name in expected.keys() & self.weights.keys() if expected[name].shape != self.weights[name].shape
        ]
        for problem, names in (("lacks", missing), ("has no place for", unexpected), ("has another shape of", wrong)):
            if names:
                first = ", ".join(sorted(names)[:3])
                raise InputError(
                    f"checkpoint of recipe {self.recipe.name}: {problem} {len(names)} tensors, first {first}; "
                    "it was written for another network or another version of this package"
                )
        network.load_state_dict(dict(self.weights))
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint aside, make sure it is on the disk, and put it in its place.

    Args:
        path: Should end in `.safetensors`.
        checkpoint: What to write.
        dtype: Of the floating-point tensors in the file.

    Raises:
        InputError: The file cannot be written.
    """
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in checkpoint.weights.items()
    }
    write_synced(path, save(tensors, describe(checkpoint)))


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """Everything that a file says of a network beside its weights, as texts by name."""
    return {
        "format": FORMAT,
        "recipe": checkpoint.recipe.model_dump_json(),
        "labels": json.dumps(checkpoint.labels.to_coco()),
        "metrics": json.dumps(dict(checkpoint.metrics)),
        "credit": checkpoint.credit,
        "versions": json.dumps(dict(checkpoint.versions)),
    }


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint; float tensors come back as float32.

    Args:
        path: A file, or the name of a network that comes with the package.

    Raises:
        InputError: It is missing, damaged, of another kind, or from a newer version.
    """
    file = find_checkpoint(path)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            check_format(
                metadata,
                f"{file}: a safetensors file, but not a thingstuff checkpoint; name one that `thingstuff train` has "
                "written",
                file,
            )
            weights = {name: _as_float32(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
            _check_finite(weights, file)
    except SafetensorError as error:
        if file.suffix != ".safetensors":
            raise InputError(f"{file}: not a checkpoint; name a .safetensors file") from error
        raise InputError(
            f"{file}: not a safetensors file, or cut short ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from error
    return read_description(metadata, weights, file, "copy or download it again")


def read_description(metadata: Mapping[str, str], weights: Mapping[str, Tensor], file: Path, remedy: str) -> Checkpoint:
    """The checkpoint that ``describe`` has described.

    Args:
        metadata: Texts by name.
        weights: Of the network.
        file: Where they stand.
        remedy: What to do where they are damaged.

    Raises:
        InputError: Something is missing or damaged.
    """
    try:
        labels, metrics, versions = (json.loads(metadata[name]) for name in ("labels", "metrics", "versions"))
        recipe, credit = metadata["recipe"], metadata["credit"]
    except (KeyError, ValueError) as error:
        raise InputError(f"{file}: its metadata is damaged ({error}); {remedy}") from error
    if not isinstance(labels, list):
        raise InputError(f"{file}: its metadata is damaged (labels is no list); {remedy}")
    return Checkpoint(
        weights,
        read_recipe(recipe, f"{file}: recipe"),
        LabelSet.from_coco(labels, str(file)),
        metrics,
        credit,
        versions,
    )


def find_checkpoint(path: Path | str) -> Path:
    """The file of a checkpoint given by path or by the name of a bundled network.

    Raises:
        InputError: There is no such file or network.
    """
    if str(path) in BUNDLED:
        return Path(str(resources.files("thingstuff") / "weights" / f"{path}.safetensors"))
    file = Path(path)
    if file.is_dir():
        raise InputError(f"{file}: this is a folder, not a checkpoint; name the .safetensors file in it")
    if file.exists() and not file.is_file():
        raise InputError(f"{file}: this is no ordinary file; name a .safetensors file")
    if file.exists() and file.suffix in (".pth", ".pt", ".pkl"):
        raise InputError(
            f"{file}: weights of another project; make a checkpoint of them: "
            f"thingstuff convert PROJECT {file} {file.with_suffix('.safetensors')}"
        )
    if file.exists() and file.suffix in (".onnx", ".xml", ".pt2"):
        raise InputError(f"{file}: an exported file, not a checkpoint; name the .safetensors file it was made from")
    if not file.exists():
        names = ", ".join(BUNDLED)
        raise InputError(
            f"{file}: there is no such checkpoint; give the path of a .safetensors file, or the name of a network that "
            f"comes with the package ({names})"
        )
    return file


def write_synced(path: Path, content: bytes) -> None:
    """Write a file so that it is either there whole or not at all, whatever happens in between.

    Raises:
        InputError: The file cannot be written.
    """
    aside = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


def check_format(metadata: Mapping[str, str], foreign: str, file: Path) -> None:
    """Make sure that this version reads a file.

    Args:
        metadata: Of the file.
        foreign: What to say of one that is not ours.
        file: Its path.

    Raises:
        InputError: It is not ours, or newer.
    """
    if not metadata.get("format", "").startswith("thingstuff checkpoint"):
        raise InputError(foreign)
    if metadata["format"] != FORMAT:
        raise InputError(
            f"{file}: {metadata['format']!r} is newer than {FORMAT!r}; update with pip install -U thingstuff"
        )


def _check_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in weights.items():
        if tensor.is_complex() or (tensor.is_floating_point() and not tensor.isfinite().all()):
            raise InputError(
                f"{file}: tensor {name} is not made of finite numbers; the network has diverged or is damaged"
            )


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _versions() -> dict[str, str]:
    packages = ("thingstuff", "torch", "torchvision", "timm", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
