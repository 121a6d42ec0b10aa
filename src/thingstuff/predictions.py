"""Pictures named on a command line, and files of what a model predicts for them."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from thingstuff.data.coco import panoptic_annotation, save_panoptic_png, write_json
from thingstuff.data.images import PICTURE_SUFFIXES, is_picture
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.predict import Model
from thingstuff.progress import track
from thingstuff.result import DetectedInstances, Result


def find_pictures(inputs: Iterable[str]) -> list[Path]:
    """The pictures meant by files, folders (with what is below them) and glob patterns, each once, in order.

    Raises:
        InputError: Something does not exist, or holds no picture.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if not text:
            raise InputError("an empty path stands among the pictures; name files, folders or patterns")
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if is_picture(file))
            if not inside:
                raise InputError(
                    f"{path}: no pictures in this folder; looked for {', '.join(sorted(PICTURE_SUFFIXES))}"
                )
        elif path.exists():
            inside = [path]
        else:
            inside = [Path(file) for file in sorted(glob.glob(text, recursive=True)) if Path(file).is_file()]
            if not inside:
                raise InputError(f"{text}: there is no such picture, folder or match; check the path")
        found |= dict.fromkeys(inside)
    return list(found)


class PredictionWriter:
    """Writes predictions picture by picture, so that nothing is lost when a later picture fails.

    A model with a panoptic map gives `predictions.json` and the folder `predictions/` in COCO panoptic format. Of a
    model without one, detections go to `instances.json` in COCO's result format and semantic maps, as category ids, to
    the folder `semantic/`.

    Args:
        folder: Where to write.
        labels: The classes.
    """

    def __init__(self, folder: Path, labels: LabelSet) -> None:
        self.folder = folder
        self.labels = labels
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.instances: list[dict[str, Any]] | None = None
        self.semantic_folder: Path | None = None
        self.names: set[str] = set()
        self.image_ids: set[int | str] = set()
        make_folder(folder)

    def write(self, result: Result, image_id: int | str | None, file_name: str) -> str:
        """Write what there is of one result; the name given to its files comes back, without suffix.

        Args:
            result: Of one picture.
            image_id: The data set's own id of the picture; None: the name, as a number where it is one, as COCO does.
            file_name: Of the picture.
        """
        name = self._new_name(file_name)
        if image_id is None:
            image_id = int(name) if name.isascii() and name.isdigit() else name
            # 1.jpg and 01.jpg are two pictures.
            image_id = name if image_id in self.image_ids else image_id
        self.image_ids.add(image_id)
        height, width = result.image.shape[:2]
        self.images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        if result.panoptic is not None:
            make_folder(self.folder / "predictions")
            save_panoptic_png(result.panoptic.ids, self.folder / "predictions" / f"{name}.png")
            self.annotations.append(panoptic_annotation(result.panoptic, image_id, f"{name}.png"))
            return name
        if result.instances is not None:
            self.instances = (self.instances or []) + coco_results(result.instances, image_id)
        if (semantic := result.semantic) is not None:
            self.semantic_folder = self.folder / "semantic"
            make_folder(self.semantic_folder)
            dtype = np.uint8 if semantic.max(initial=0) < 256 else np.uint16
            Image.fromarray(semantic.astype(dtype)).save(self.semantic_folder / f"{name}.png")
        return name

    def close(self) -> list[Path]:
        """Write the JSON files of everything so far, and say where they and the semantic maps are."""
        written = [] if self.semantic_folder is None else [self.semantic_folder]
        if self.annotations:
            content = {
                "images": self.images,
                "annotations": self.annotations,
                "categories": self.labels.to_coco(),
            }
            written.append(self.folder / "predictions.json")
            write_json(written[-1], content)
        if self.instances is not None:
            written.append(self.folder / "instances.json")
            write_json(written[-1], self.instances)
        return written

    def _new_name(self, file_name: str) -> str:
        # File systems end names at 255 bytes; the last part of a path tells more than the first.
        stem = Path(file_name).with_suffix("").as_posix().replace("/", "_")[-60:]
        name, number = stem, 2
        while name in self.names:
            name, number = f"{stem}_{number}", number + 1
        self.names.add(name)
        return name


def coco_results(instances: DetectedInstances, image_id: int | str) -> list[dict[str, Any]]:
    """Detections as COCO's result format has them: boxes as x, y, width, height; masks as compressed run lengths."""
    rows = []
    for row in range(len(instances)):
        x1, y1, x2, y2 = instances.boxes[row].tolist()
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(instances.category_ids[row]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(instances.scores[row]),
        }
        if instances.mask_probabilities is not None:
            entry["segmentation"] = {"size": list(instances.size), "counts": run_lengths(instances.mask(row))}
        rows.append(entry)
    return rows


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> str:
    """A mask as COCO's compressed run lengths, so that writing predictions needs no package for scoring.

    Source: the format of COCO's ``maskApi``: lengths of runs down the columns, the first of False; from the fourth on
        as the difference to the one before the last; in groups of five bits, lowest first, the sixth bit where more
        follow, each as a character from 48.
    """
    line = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(line[1:] != line[:-1])
    lengths = np.diff(changes, prepend=0, append=mask.size)
    lengths[3:] -= lengths[1:-2].copy()
    characters = []
    for value in lengths.tolist():
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            characters.append(chr(48 + group + 32 * more))
    return "".join(characters)


def make_folder(folder: Path) -> None:
    """Make a folder for results.

    Raises:
        InputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder with --out") from error


def common_folder(paths: Sequence[Path]) -> Path:
    """The innermost folder that holds all of the files."""
    shared = paths[0].absolute().parent
    while not all(path.absolute().is_relative_to(shared) for path in paths):
        shared = shared.parent
    return shared


def predict_files(
    model: Model,
    pictures: Sequence[Path],
    writer: PredictionWriter,
    *,
    overlay: bool,
    skip_damaged: bool,
    problems: list[str],
) -> None:
    """Predict files one by one and write each result at once.

    Args:
        model: The network.
        pictures: Files.
        writer: Takes the results.
        overlay: Also draw every result over its picture, in the folder `overlays/`.
        skip_damaged: Go on after a picture that cannot be read; otherwise stop there.
        problems: Gets a line for each picture that could not be read.
    """
    root = common_folder(pictures)
    if overlay:
        make_folder(writer.folder / "overlays")
    for path in track(pictures, "predicting", len(pictures)):
        try:
            result = model(path)
        except InputError as error:
            problems.append(str(error) if skip_damaged else f"{error}; --skip-damaged goes on without it")
            if not skip_damaged:
                return
            continue
        name = writer.write(result, None, path.absolute().relative_to(root).as_posix())
        if overlay:
            drawn = writer.folder / "overlays" / f"{name}.jpg"
            try:
                result.overlay().convert("RGB").save(drawn, quality=92)
            except OSError as error:
                problems.append(f"{drawn}: the overlay cannot be written ({error}); its prediction is kept")
