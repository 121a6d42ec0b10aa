"""Published data sets made ready: which files to get, what is unpacked, counted and built of them.

Nothing is downloaded: three of the four want an account or a licence to be accepted. Archives that lie in the root are
unpacked there; panoptic files that the data set's publisher does not give away are built, in the layout that others use
for them. Everything can be interrupted at any time: a second call goes on.
"""

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from thingstuff.data import ade20k, cityscapes, mapillary
from thingstuff.data.coco import (
    open_panoptic_files,
    panoptic_annotation,
    save_panoptic_png,
    truth_to_panoptic,
    write_json,
)
from thingstuff.data.id_maps import IdMapSource, MapFiles
from thingstuff.data.layouts import PanopticFiles, ade20k_files, cityscapes_files, coco_files, mapillary_files
from thingstuff.errors import InputError

DataSet = Literal["coco", "cityscapes", "mapillary", "ade20k"]
_JOURNAL = ".built.jsonl"
"""In the folder of PNG files that are being built: one line for each finished file."""
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Goes through items while it shows how far it is: items, what is done, how many."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something that must be there.

    Attributes:
        path: File or folder that shows that it is there, from the data set's folder.
        archive: What it comes in, in the root until it is unpacked.
        url: Where to get the archive.
        into: Folder to unpack the archive into, from the data set's folder.
    """

    path: str
    archive: str
    url: str
    into: str = "."


@dataclass(frozen=True, slots=True)
class Published:
    """A published data set.

    Attributes:
        title: Its name in full.
        page: Where its publisher describes it.
        licence: What one may do with it, in short, and where that is written.
        parts: What must be there.
        counts: Annotated pictures of each split.
    """

    title: str
    page: str
    licence: str
    parts: tuple[Part, ...]
    counts: Mapping[str, int]


_COCO = "http://images.cocodataset.org"
_CITYSCAPES = "https://www.cityscapes-dataset.com/downloads/"
_MAPILLARY = "https://www.mapillary.com/dataset/vistas"
_MAPILLARY_ZIP = "mapillary-vistas-dataset_public_v2.0.zip"
_ADE20K_ZIP = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
_ADE20K_TAR = "http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar"
_PANOPTIC_ZIP = "panoptic_annotations_trainval2017.zip"

PUBLISHED: Mapping[DataSet, Published] = {
    "coco": Published(
        "COCO 2017",
        "https://cocodataset.org/#download",
        "annotations CC BY 4.0; pictures under the terms of Flickr and of their authors "
        "(https://cocodataset.org/#termsofuse)",
        (
            Part("train2017", "train2017.zip", f"{_COCO}/zips/train2017.zip"),
            Part("val2017", "val2017.zip", f"{_COCO}/zips/val2017.zip"),
            Part("annotations/panoptic_train2017.json", _PANOPTIC_ZIP, f"{_COCO}/annotations/{_PANOPTIC_ZIP}"),
            Part("annotations/panoptic_val2017.json", _PANOPTIC_ZIP, f"{_COCO}/annotations/{_PANOPTIC_ZIP}"),
        ),
        {"train": 118_287, "val": 5_000},
    ),
    "cityscapes": Published(
        "Cityscapes, fine annotations",
        "https://www.cityscapes-dataset.com",
        "its own, for research and evaluation, not commercial (https://www.cityscapes-dataset.com/license/); "
        "needs an account",
        (
            Part("leftImg8bit/train", "leftImg8bit_trainvaltest.zip", _CITYSCAPES),
            Part("leftImg8bit/val", "leftImg8bit_trainvaltest.zip", _CITYSCAPES),
            Part("gtFine/train", "gtFine_trainvaltest.zip", _CITYSCAPES),
            Part("gtFine/val", "gtFine_trainvaltest.zip", _CITYSCAPES),
        ),
        {"train": 2_975, "val": 500},
    ),
    "mapillary": Published(
        "Mapillary Vistas, research edition, 1.2 or 2.0",
        _MAPILLARY,
        f"CC BY-NC-SA 4.0, not commercial ({_MAPILLARY}); needs an account",
        (
            Part("training/images", _MAPILLARY_ZIP, _MAPILLARY),
            Part("validation/images", _MAPILLARY_ZIP, _MAPILLARY),
        ),
        {"train": 18_000, "val": 2_000},
    ),
    "ade20k": Published(
        "ADE20K, scene parsing benchmark of 150 classes",
        "http://sceneparsing.csail.mit.edu",
        "annotations BSD 3-clause; pictures for research and education, not commercial "
        "(https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/)",
        (
            Part("images/training", "ADEChallengeData2016.zip", _ADE20K_ZIP, ".."),
            Part("annotations/training", "ADEChallengeData2016.zip", _ADE20K_ZIP, ".."),
            Part("annotations_instance/training", "annotations_instance.tar", _ADE20K_TAR),
        ),
        {"train": 20_210, "val": 2_000},
    ),
}


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """What became of one split.

    Attributes:
        split: Its name.
        pictures: Annotated pictures that are there.
        expected: Annotated pictures of the original.
        built: PNG files that were made by this call; None: the panoptic files were there already.
        layout: Where everything lies, in a line.
    """

    split: str
    pictures: int
    expected: int
    built: int | None
    layout: str


# --- what is missing ---


def unpack_archives(name: DataSet, root: Path, track: Track) -> None:
    """Unpack the archives of missing parts that lie in the root.

    Raises:
        InputError: There is no such root, or an archive is damaged.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; make it, it is where the data set will lie")
    for part in missing_parts(name, root):
        # One archive may hold several parts, so the part may be there by now.
        if (root / part.archive).is_file() and not (_base(name, root) / part.path).exists():
            _unpack(root / part.archive, _base(name, root) / part.into, track)
    if name == "coco":
        # Inside the archive of annotations the PNG files are in archives of their own.
        for split in ("train2017", "val2017"):
            archive, folder = root / f"annotations/panoptic_{split}.zip", coco_files(root, split).map_folder
            if archive.is_file() and not folder.is_dir():
                _unpack(archive, root / "annotations", track)


def missing_parts(name: DataSet, root: Path) -> tuple[Part, ...]:
    """What is not there yet."""
    base = _base(name, root)
    return tuple(part for part in PUBLISHED[name].parts if not (base / part.path).exists())


def _base(name: DataSet, root: Path) -> Path:
    """The folder that paths of parts begin at: the root, but ADE20K's archive makes a folder in it."""
    if name != "ade20k" or root.name == "ADEChallengeData2016" or (root / "annotations").is_dir():
        return root
    return root / "ADEChallengeData2016"


def _unpack(archive: Path, folder: Path, track: Track) -> None:
    """Unpack what is not there yet; a file appears under its name only when it is complete."""
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                members = [(each.name, each.size, each) for each in tar.getmembers() if each.isfile()]
                for member, size, each in track(members, f"unpacking {archive.name}", len(members)):
                    _place(member, size, folder, lambda each=each: tar.extractfile(each), archive)
        else:
            with zipfile.ZipFile(archive) as bundle:
                infos = [each for each in bundle.infolist() if not each.is_dir()]
                for each in track(infos, f"unpacking {archive.name}", len(infos)):
                    _place(each.filename, each.file_size, folder, lambda each=each: bundle.open(each), archive)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
        # A RuntimeError says that the archive is encrypted, or packed by a method that Python does not know.
        reason = " ".join(str(error).split())
        raise InputError(f"{archive}: cannot be unpacked ({reason}); download it again, or check the space") from error


def _place(member: str, size: int, folder: Path, read: Callable[[], Any], archive: Path) -> None:
    inside = PurePosixPath(member.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or (inside.parts and inside.parts[0].endswith(":")):
        raise InputError(
            f"{archive}: the member {member!r} leads out of the folder; get the archive from its publisher"
        )
    target = folder / inside
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with read() as source, aside.open("wb") as file:
            shutil.copyfileobj(source, file, 1024 * 1024)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


# --- what is built ---


def prepare(
    name: DataSet, root: Path, track: Track, version: mapillary.Version | None = None
) -> tuple[PreparedSplit, ...]:
    """Check the panoptic files of a published data set, and build those that are missing.

    Args:
        name: Which one.
        root: Folder with its files, all parts of which are there.
        track: Shows how far it is.
        version: Of Mapillary Vistas' annotation; None: all that are there.

    Raises:
        InputError: Something is missing or damaged.
    """
    if name == "coco":
        files = {split: coco_files(root, f"{split}2017") for split in PUBLISHED[name].counts}
        return tuple(_check(name, split, files[split], None) for split in files)
    if name == "mapillary":
        versions = (version,) if version is not None else tuple(mapillary.find_configs(root))
        if not versions:
            mapillary.open_mapillary(root)  # says what is missing
        prepared = []
        for each in versions:
            wanted = {split: mapillary_files(root, split, each) for split in PUBLISHED[name].counts}
            prepared += _prepare(name, wanted, lambda each=each: mapillary.open_mapillary(root, each), track)
        return tuple(prepared)
    places = cityscapes_files if name == "cityscapes" else ade20k_files
    opened = cityscapes.open_cityscapes if name == "cityscapes" else ade20k.open_ade20k
    wanted = {split: places(root, split) for split in PUBLISHED[name].counts}
    return tuple(_prepare(name, wanted, lambda: opened(root), track))


def _prepare(
    name: DataSet, wanted: Mapping[str, PanopticFiles], opened: Callable[[], IdMapSource], track: Track
) -> list[PreparedSplit]:
    prepared = []
    source = None
    for split, files in wanted.items():
        built = None
        if not files.json_path.is_file():
            source = opened() if source is None else source
            built = _build(name, split, source, files, track)
        prepared.append(_check(name, split, files, built))
    return prepared


def _check(name: DataSet, split: str, files: PanopticFiles, built: int | None) -> PreparedSplit:
    try:
        pictures = len(open_panoptic_files(files))
    except InputError as error:
        if name == "coco":
            raise
        raise InputError(f"{error}; or remove {files.json_path}, then it is built again") from error
    return PreparedSplit(split, pictures, PUBLISHED[name].counts[split], built, files.describe())


def _build(name: DataSet, split: str, source: IdMapSource, files: PanopticFiles, track: Track) -> int:
    """Write the PNG files of a split that are not there yet, then its JSON file; the number of new PNG files."""
    rows = [row for row, each in enumerate(source.files) if each.split == split]
    if not rows:
        raise InputError(f"{files.image_folder}: there is no annotated picture of {split}; unpack the data set again")
    try:
        files.map_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{files.map_folder}: cannot be made ({error.strerror}); is the disk writable?") from error
    journal = files.map_folder / _JOURNAL
    entries = _read_journal(journal, files.map_folder)
    todo = [row for row in rows if source.files[row].image_id not in entries]

    def build(row: int) -> dict[str, Any]:
        return _build_one(name, source, row, files.map_folder)

    # Decoding and compressing leave Python to others most of the time, so threads are enough.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with journal.open("a", encoding="utf-8") as file:
            for entry in track(pool.map(build, todo), f"building {split}", len(todo)):
                file.write(f"{json.dumps(entry)}\n")
                file.flush()
                entries[entry["image"]["id"]] = entry
    except OSError as error:
        raise InputError(f"{journal}: cannot be written ({error.strerror}); is there space?") from error
    finally:
        pool.shutdown(cancel_futures=True)
    ordered = [entries[source.files[row].image_id] for row in rows]
    document = {
        "images": [entry["image"] for entry in ordered],
        "annotations": [entry["annotation"] for entry in ordered],
        "categories": source.labels.to_coco(),
    }
    write_json(files.json_path, document)
    journal.unlink()
    return len(todo)


def _read_journal(journal: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What an interrupted call has finished, by the picture's id."""
    entries = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []:
        try:
            entry = json.loads(line)
            if (folder / entry["annotation"]["file_name"]).is_file():
                entries[entry["image"]["id"]] = entry
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a call that was killed
    return entries


def _build_one(name: DataSet, source: IdMapSource, row: int, folder: Path) -> dict[str, Any]:
    """Write the PNG file of one picture; its entries in the JSON file."""
    files = source.files[row]
    panoptic = truth_to_panoptic(source.read_truth(row), source.labels)
    image_name, map_name = _names(name, files)
    aside = folder / f".{map_name}.{os.getpid()}.tmp"
    try:
        save_panoptic_png(panoptic.ids, aside)
        aside.replace(folder / map_name)
    finally:
        aside.unlink(missing_ok=True)
    height, width = panoptic.ids.shape
    image = {"id": files.image_id, "file_name": image_name, "width": width, "height": height}
    return {"image": image, "annotation": panoptic_annotation(panoptic, files.image_id, map_name)}


def _names(name: DataSet, files: MapFiles) -> tuple[str, str]:
    """File names of picture and PNG file, as the JSON files in use have them."""
    if name == "cityscapes":
        return f"{files.image_id}_gtFine_leftImg8bit.png", f"{files.image_id}_gtFine_panoptic.png"
    return files.image.name, f"{files.image_id}.png"


def explain(name: DataSet, missing: Sequence[Part]) -> list[str]:
    """What to get where, in lines for a person; ``missing`` are the parts that are not there."""
    published = PUBLISHED[name]
    lines = [published.title, f"  page     {published.page}", f"  licence  {published.licence}"]
    for part in published.parts:
        lines.append(f"  {'missing' if part in missing else 'there  '}  {part.path}")
        if part in missing:
            lines.append(f"           from {part.archive}: {part.url}")
    return lines
