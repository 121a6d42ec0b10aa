"""The verb that writes networks for other runtimes."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from thingstuff.cli import SUCCESS
from thingstuff.commands.terminal import parse, say, say_json
from thingstuff.errors import InterruptedWork

if TYPE_CHECKING:
    from thingstuff.export.check import Difference


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export`."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """A .safetensors file, or the name of a bundled or published network."""
    to: Literal["onnx", "openvino", "torch"]
    """What shall run it: ONNX Runtime and all that reads ONNX, OpenVINO, or torch without this package."""
    out: Annotated[Path, arg(metavar="FILE")]
    """The file to write: .onnx; .xml, with the weights beside it in .bin; or .pt2."""
    batch: int = 1
    """Pictures that the file takes at once, all of one size."""
    pictures: tuple[str, ...] = ()
    """Pictures, folders or patterns on which the file is compared with the network, besides procedural ones."""
    json: bool = False
    """Print the differences as JSON."""


def export(words: list[str]) -> int:
    """Write a network for another runtime."""
    description = (
        "Write a network with everything behind it, pictures in and panoptic map out, as a file for another runtime, "
        "and compare both on pictures. A file that differs is not kept."
    )
    options = parse(ExportOptions, "export", description, words)
    from thingstuff.export import check_target, export_checkpoint
    from thingstuff.predict import find_and_load_checkpoint
    from thingstuff.predictions import find_pictures

    check_target(options.to, options.out, options.batch)
    pictures = find_pictures(options.pictures)
    checkpoint = find_and_load_checkpoint(options.checkpoint)
    try:
        differences = export_checkpoint(checkpoint, options.to, options.out, batch=options.batch, pictures=pictures)
    except KeyboardInterrupt:
        raise InterruptedWork(f"interrupted; {options.out} was not written") from None
    if options.json:
        say_json({"file": str(options.out), "differences": [asdict(difference) for difference in differences]})
        return SUCCESS
    for difference in differences:
        say(_line(difference))
    say(f"{options.out}: {_megabytes(options.out):.1f} MB, the same as the network; thingstuff.load reads it")
    return SUCCESS


def _line(difference: "Difference") -> str:
    """What was compared on one picture."""
    parts = []
    if difference.segments is not None:
        parts.append(f"{difference.segments[1]} of {difference.segments[0]} segments")
        parts.append(f"{difference.agreement:.3%} of pixels")
    if difference.semantic is not None:
        parts.append(f"{difference.semantic:.3%} of label map")
    if difference.instances is not None:
        parts.append(f"{difference.instances[1]} of {difference.instances[0]} instances")
        parts.append(f"boxes within {difference.boxes:.1e} px, scores within {difference.scores:.1e}")
        if difference.masks is not None:
            parts.append(f"masks within {difference.masks:.1e}")
    return f"{difference.picture}: {', '.join(parts)}"


def _megabytes(path: Path) -> float:
    files = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
    return sum(file.stat().st_size for file in files) / 1e6
