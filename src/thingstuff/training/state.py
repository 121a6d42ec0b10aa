"""What a run needs to go on after it was stopped at any moment, and what it leaves behind."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from thingstuff.checkpoint import load_checkpoint, write_synced
from thingstuff.data.loader import PictureSource
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.progress import announce
from thingstuff.recipe import Recipe
from thingstuff.training.transfer import transfer

STATE_FILE = Path("state") / "training.pt"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Steps taken.
        best: Best headline number of an evaluation; below 0 before the first.
        evaluations_since_best: For early stopping.
        evaluated: Step of the last evaluation.
    """

    step: int = 0
    best: float = -1.0
    evaluations_since_best: int = 0
    evaluated: int = 0

    def note(self, headline: float) -> bool:
        """Note the result of an evaluation; True if it is the best so far, of equal ones the last."""
        self.evaluated = self.step
        self.evaluations_since_best = 0 if headline > self.best else self.evaluations_since_best + 1
        is_best = headline >= self.best
        self.best = max(headline, self.best)
        return is_best


@dataclass(frozen=True, slots=True)
class Trainee:
    """Everything that changes while a run goes on."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    progress: Progress


def save_state(folder: Path, trainee: Trainee, settings: dict[str, Any]) -> None:
    """Write down everything that changes in a run; the file is there whole or not at all.

    Args:
        folder: Of the run.
        trainee: What to write.
        settings: What must be the same when the run goes on.
    """
    content = {
        "network": trainee.network.state_dict(),
        "optimizer": trainee.optimizer.state_dict(),
        "average": trainee.average.state_dict() if trainee.average is not None else None,
        "progress": asdict(trainee.progress),
        "settings": json.dumps(settings),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_synced(folder / STATE_FILE, buffer.getvalue())


def load_state(folder: Path, trainee: Trainee, settings: dict[str, Any]) -> None:
    """Put a run where its last saved state was; a run that saved none begins anew.

    Raises:
        InputError: The state is damaged, or of a run with other settings.
    """
    path = folder / STATE_FILE
    if not path.exists():
        announce(f"{folder} has no saved state yet; the run begins anew")
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_settings(json.loads(content["settings"]), settings, folder)
    except InputError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in torch's reader
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: damaged ({reason}); delete the folder {path.parent} to begin anew") from error
    trainee.network.load_state_dict(content["network"])
    trainee.optimizer.load_state_dict(content["optimizer"])
    if trainee.average is not None:
        trainee.average.load_state_dict(content["average"])
    for name, value in content["progress"].items():
        setattr(trainee.progress, name, value)


def initialize(network: nn.Module, path: Path, recipe: Recipe, labels: LabelSet) -> None:
    """Take every tensor of a checkpoint that has the same name and shape in the network, and outputs class by class.

    Args:
        network: Of the recipe, with these classes.
        path: The checkpoint.
        recipe: Its ``init_names`` says what the checkpoint calls a class.
        labels: The network's classes.

    Raises:
        InputError: No tensor has, or ``init_names`` names a class that the checkpoint does not know.
    """
    own = network.state_dict()
    found = transfer(load_checkpoint(path), own, recipe, labels, str(path))
    if not found.weights:
        raise InputError(
            f"{path}: no tensor has a name and shape of this network; choose a checkpoint of a like recipe"
        )
    network.load_state_dict(own | dict(found.weights))
    new = sorted({name.rsplit(".", 1)[0] for name in own.keys() - found.weights.keys()})
    announce(f"{path}: {len(found.weights)} of {len(own)} tensors taken")
    for line in found.lines:
        announce(line)
    if new:
        announce(f"learned from nothing: {', '.join(new)}")


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse to write over another run; one that failed before its first step left nothing to keep.

    Raises:
        InputError: The folder holds one, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file; name a folder with --out")
    if not resume and any((folder / name).exists() for name in (STATE_FILE, "best.safetensors", "last.safetensors")):
        raise InputError(f"{folder}: holds a run already; go on with --resume, or name another folder with --out")


def run_settings(recipe: Recipe, source: PictureSource, batch_size: int, accumulate: int, seed: int) -> dict[str, Any]:
    """What must be the same for a resumed run to equal one that was never stopped."""
    return _flat(recipe.model_dump(mode="json")) | {
        "classes": [category.name for category in source.labels.categories],
        "pictures": len(source),
        "batch_size": batch_size,
        "accumulate": accumulate,
        "seed": seed,
    }


def _check_settings(saved: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name):
            raise InputError(
                f"{folder}: the run was started with {name} {saved.get(name)}, not {now.get(name)}; "
                "resume with the same settings, or begin another run with another --out"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
