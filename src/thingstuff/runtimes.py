"""What runs a network besides torch: exported files, opened and asked."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from thingstuff.arithmetic import usable_precision
from thingstuff.checkpoint import Checkpoint, check_format, describe, read_description
from thingstuff.data.transforms import resize_image
from thingstuff.errors import InputError
from thingstuff.structures import Instances, PanopticMaps, Precision, Size

Runtime = Literal["torch", "compile", "onnx", "openvino", "auto"]
"""What computes; see ``predict.load``."""
ExportKind = Literal["onnx", "openvino", "torch"]
"""What a file is exported for."""

SUFFIXES: Mapping[ExportKind, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""How the names of exported files end."""
PACKAGES: Mapping[ExportKind, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""What a conversion needs; the last one runs the file."""
EXTRAS: Mapping[ExportKind, str] = {"onnx": "export", "openvino": "openvino"}
"""The extra of this package to install for that."""
# The names of what a file takes and says.
IMAGES = "images"
"""Raw pixel values (B, H, W, C)."""
OUTPUT_SIZE = "output_size"
"""How large the maps shall be: height and width. A file for torch takes a tensor of that size instead."""
PANOPTIC_OUTPUTS = ("panoptic_ids", "segment_labels", "segment_scores", "segment_areas", "segment_valid")
"""Map of segment ids (B, H, W), and its table (B, N): class index, score, pixels; row ``id - 1`` where valid."""
INSTANCE_OUTPUTS = ("boxes", "scores", "labels", "instance_valid")
"""Every detection, best first: ``xyxy`` in output pixels, probability, class index; (B, D) where valid."""
MASK_OUTPUT = "mask_logits"
"""The mask inside each box, (B, D, M, M)."""
SEMANTIC_OUTPUT = "semantic"
"""Strongest output of the semantic branch at every pixel, (B, H, W)."""
METADATA = ("format", "recipe", "labels", "metrics", "credit", "versions", "batch")
"""Names of the texts that stand in an exported file."""
OPENVINO_SECTION = "thingstuff"
"""Where OpenVINO's files hold our metadata."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is in one picture, as any runtime says it.

    Attributes:
        maps: The panoptic map; None from a network that makes none.
        instances: For a batch of one; None from a network without region branch.
        frame: Size of the picture in the frame of the instances.
        semantic: Gives the strongest output of the semantic branch at every pixel of the output; None from a network
            without that branch.
    """

    maps: PanopticMaps | None
    instances: Instances | None
    frame: Size
    semantic: Callable[[], UInt8[np.ndarray, "h w"]] | None


@dataclass(frozen=True)
class FileRuntime:
    """An exported file, ready for pictures.

    Attributes:
        checkpoint: All that stands in the file but the weights.
        batch: Pictures that the graph takes at once.
        run: Gives the outputs by their names for pictures and a size.
    """

    checkpoint: Checkpoint
    batch: int
    run: Callable[[np.ndarray, Size], Mapping[str, np.ndarray]]

    def see(self, images: Sequence[Shaped[np.ndarray, "H W C"]], size: Size, output_size: Size) -> list[Sight]:
        """See what is in each of some pictures.

        Args:
            images: Raw pixel values, as people have them; at most ``batch`` of them.
            size: At which the network sees them.
            output_size: Of the results.
        """
        pixels = np.stack([resize_image(image, size) for image in images]).astype(pixel_type(self.checkpoint))
        # The last one fills up what the graph takes.
        filling = np.repeat(pixels[-1:], self.batch - len(images), axis=0)
        values = self.run(np.concatenate([pixels, filling]), output_size)
        found = {name: torch.from_numpy(array) for name, array in values.items()}
        return [self._pick(found, row, output_size) for row in range(len(images))]

    def _pick(self, found: Mapping[str, Tensor], row: int, output_size: Size) -> Sight:
        """What is said of one picture; instances are in the frame of the output already."""
        maps = instances = semantic = None
        if PANOPTIC_OUTPUTS[0] in found:
            maps = PanopticMaps(*(found[name][row] for name in PANOPTIC_OUTPUTS))
        if INSTANCE_OUTPUTS[0] in found:
            boxes, scores, labels, valid = (found[name][row, None] for name in INSTANCE_OUTPUTS)
            masks = found[MASK_OUTPUT][row, None] if MASK_OUTPUT in found else None
            instances = Instances(boxes, scores, labels - self.checkpoint.labels.num_stuff, masks, valid)
        if SEMANTIC_OUTPUT in found:
            strongest = found[SEMANTIC_OUTPUT][row].numpy()
            semantic = lambda: strongest  # noqa: E731
        return Sight(maps, instances, output_size, semantic)


def pixel_type(checkpoint: Checkpoint) -> str:
    """What an exported graph takes: 8-bit colours; of other channels and of 16 bits any numbers."""
    picture = checkpoint.recipe.picture
    return "uint8" if picture.channels == 3 and picture.pixels != "uint16" else "float32"


# --- choices ---


def pick_runtime(runtime: str, precision: str, *, on_processor: bool, tta: bool) -> Runtime:
    """Which runtime it will be.

    Args:
        runtime: What was asked for.
        precision: What was asked for.
        on_processor: Not on a GPU.
        tta: Whether pictures are looked at several times.

    Raises:
        InputError: It does not exist, is not installed, or does not go with the rest.
    """
    if runtime not in get_args(Runtime):
        raise InputError(f"runtime is {runtime!r}; choose one of {', '.join(get_args(Runtime))}")
    _check_precision(precision)
    if runtime == "auto":
        # ONNX Runtime was slower than torch wherever both were measured.
        runtime = "openvino" if on_processor and not tta and not missing_packages("openvino") else "torch"
    _check_combination(runtime, precision, on_processor, tta)
    known: Runtime = runtime  # pyright: ignore[reportAssignmentType]
    if known == "onnx" or known == "openvino":
        require_packages(known)
    return known


def _check_combination(runtime: str, precision: str, on_processor: bool, tta: bool) -> None:
    if tta and runtime != "torch":
        raise InputError(f"tta looks at a picture several times, which runtime {runtime!r} cannot; use 'torch'")
    if not on_processor and runtime in ("onnx", "openvino"):
        raise InputError(f"runtime {runtime!r} runs on the processor; give device='cpu', or use 'torch' or 'compile'")
    if precision != "float32" and runtime == "onnx":
        raise InputError(f"precision {precision!r} is not for runtime {runtime!r}; leave it out, or use 'openvino'")


def missing_packages(kind: ExportKind) -> list[str]:
    """What is not installed of what a conversion and its runtime need."""
    return [name for name in PACKAGES[kind] if importlib.util.find_spec(name) is None]


def require_packages(kind: ExportKind, *, only_running: bool = False) -> None:
    """Make sure that a file of this kind can be made, or at least be run.

    Raises:
        InputError: Something is not installed.
    """
    missing = missing_packages(kind)
    if only_running:
        missing = [name for name in missing if name == PACKAGES[kind][-1]]
    if missing:
        raise InputError(f"runtime {kind!r} lacks {', '.join(missing)}; pip install 'thingstuff[{EXTRAS[kind]}]'")


# --- files ---


def is_exported(name: str | Path) -> bool:
    """Whether a name is that of an exported file, not of a checkpoint or a network."""
    return Path(name).suffix.lower() in SUFFIXES.values()


def open_exported(
    path: Path, runtime: str | None, precision: Precision, *, on_processor: bool, tta: bool
) -> FileRuntime | Checkpoint:
    """Open a file that ``thingstuff export`` has written.

    Args:
        path: Of the file.
        runtime: What was asked for; None and ``auto``: what the file is for.
        precision: Of the arithmetic; for torch, the caller sees to it.
        on_processor: Not on a GPU.
        tta: Whether pictures are looked at several times.

    Returns:
        What runs it; of a file for torch, its weights and metadata.

    Raises:
        InputError: It is missing, damaged, of another program, or does not go with the rest.
    """
    kind: ExportKind = next(kind for kind, suffix in SUFFIXES.items() if suffix == path.suffix.lower())
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; `thingstuff export` writes one")
    if runtime not in (None, "auto", kind):
        raise InputError(f"{path}: a file for runtime {kind!r} does not run with {runtime!r}; load the checkpoint")
    _check_precision(precision)
    _check_combination(kind, precision, on_processor, tta)
    if kind == "torch":
        from thingstuff.export.torch_file import read_torch_file

        return read_torch_file(path)
    require_packages(kind, only_running=True)
    try:
        return _open_onnx(path) if kind == "onnx" else _open_openvino(path, precision)
    except InputError:
        raise
    except Exception as error:  # every runtime has exceptions of its own
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: {kind} cannot read it ({reason}); export it again") from error


def _check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}; choose one of {', '.join(get_args(Precision))}")


def _open_onnx(path: Path) -> FileRuntime:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; the exporter leaves constants that nobody uses
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    checkpoint, batch = read_metadata(session.get_modelmeta().custom_metadata_map, path)
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray, output_size: Size) -> dict[str, np.ndarray]:
        feeds = {IMAGES: images, OUTPUT_SIZE: np.array(output_size, dtype=np.int64)}
        return {name: np.asarray(value) for name, value in zip(names, session.run(names, feeds), strict=True)}

    return FileRuntime(checkpoint, batch, run)


def _open_openvino(path: Path, precision: Precision) -> FileRuntime:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    entries = {name: [OPENVINO_SECTION, name] for name in METADATA}
    metadata = {
        name: model.get_rt_info(entry).astype(str) for name, entry in entries.items() if model.has_rt_info(entry)
    }
    checkpoint, batch = read_metadata(metadata, path)
    # Its own choice is bfloat16 on processors that have it, which reorders near ties.
    hint = {"float32": "f32", "bfloat16": "bf16"}[usable_precision(precision, torch.device("cpu"))]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings)
    names = [output.any_name for output in compiled.outputs]

    def run(images: np.ndarray, output_size: Size) -> dict[str, np.ndarray]:
        found = compiled({IMAGES: images, OUTPUT_SIZE: np.array(output_size, dtype=np.int64)})
        return {name: np.array(found[name]) for name in names}

    return FileRuntime(checkpoint, batch, run)


# --- metadata ---


def write_metadata(checkpoint: Checkpoint, batch: int) -> dict[str, str]:
    """All that stands in an exported file but the graph; ``read_metadata`` reads it."""
    return describe(checkpoint) | {"batch": str(batch)}


def read_metadata(metadata: Mapping[str, str], path: Path) -> tuple[Checkpoint, int]:
    """A checkpoint without weights, and how many pictures the graph takes at once.

    Raises:
        InputError: The file is of another program, from a newer version of this one, or damaged.
    """
    foreign = f"{path}: not written by `thingstuff export`, so its outputs have no meaning here; export again"
    check_format(metadata, foreign, path)
    checkpoint = read_description(metadata, {}, path, "export it again")
    try:
        return checkpoint, int(metadata["batch"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: its metadata is damaged ({error}); export it again") from error
