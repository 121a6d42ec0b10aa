"""Weights of other projects become checkpoints of this one."""

from pathlib import Path
from typing import Literal, assert_never

from thingstuff.checkpoint import Checkpoint, save_checkpoint
from thingstuff.convert.detectron2 import convert_detectron2
from thingstuff.convert.mmdet import convert_mmdet
from thingstuff.convert.panet import convert_panet
from thingstuff.convert.torchvision import convert_torchvision
from thingstuff.convert.upsnet import convert_upsnet
from thingstuff.errors import InputError

Kind = Literal["detectron2", "torchvision", "mmdet", "upsnet", "panet"]
"""Projects whose weights can be converted."""


def convert(kind: Kind, source: Path | str, out: Path | str, labels: Path | str | None = None) -> Checkpoint:
    """Convert a weight file of another project and write it as a checkpoint.

    Args:
        kind: The other project.
        source: Its file; read without running any code that may stand in it.
        out: Where to write, ending in `.safetensors`.
        labels: A COCO panoptic `.json`, or a `.toml` with ``[[category]]`` tables, that lists the classes; None:
            COCO's or Cityscapes', by the number of outputs.

    Raises:
        InputError: The file cannot be read or does not fit, or ``out`` cannot be written.
    """
    if Path(out).suffix != ".safetensors":
        raise InputError(f"{out}: a checkpoint ends in .safetensors; name it so")
    match kind:
        case "detectron2":
            checkpoint = convert_detectron2(source, labels)
        case "torchvision":
            checkpoint = convert_torchvision(source, labels)
        case "mmdet":
            checkpoint = convert_mmdet(source, labels)
        case "upsnet":
            checkpoint = convert_upsnet(source, labels)
        case "panet":
            checkpoint = convert_panet(source, labels)
        case _:
            assert_never(kind)
    save_checkpoint(Path(out), checkpoint)
    return checkpoint
