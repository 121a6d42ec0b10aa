"""Where data sets in the COCO panoptic format keep the files of a split: our layout, and those that people have.

    ours            panoptic_<split>.json   panoptic_<split>/   images/
    COCO 2017       annotations/panoptic_<split>2017.json   annotations/panoptic_<split>2017/ or panoptic_<split>2017/
                    <split>2017/ or images/<split>2017/
    split folders   annotations/<split>.json or <split>.json   annotations/<split>/   images/<split>/
    Cityscapes      gtFine/cityscapes_panoptic_<split>.json   gtFine/cityscapes_panoptic_<split>/   leftImg8bit/<split>/
    ADE20K          ade20k_panoptic_<split>.json   ade20k_panoptic_<split>/   images/training or validation/
    Mapillary       training or validation/v2.0/panoptic/panoptic_2020.json with the PNG files beside it, else
                    v1.2/panoptic/panoptic_2018.json or panoptic/panoptic_2018.json; training or validation/images/

The first that has the JSON file of the split is taken.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from thingstuff.data import ade20k, cityscapes, mapillary
from thingstuff.errors import InputError

_NAMED_IN_CITYSCAPES = "_gtFine_leftImg8bit.png"
_STORED_IN_CITYSCAPES = "_leftImg8bit.png"


@dataclass(frozen=True, slots=True)
class PanopticFiles:
    """The files of one split.

    Attributes:
        layout: Name of the layout.
        json_path: What the COCO panoptic format calls the annotations.
        image_folder: Pictures.
        map_folder: PNG files of the id maps.
        instances_path: Instance annotations, whether they are there or not.
        root: What the user named.
    """

    layout: str
    json_path: Path
    image_folder: Path
    map_folder: Path
    instances_path: Path
    root: Path

    def describe(self) -> str:
        """Layout and places, in a line."""
        json_path, maps, images = (
            path.relative_to(self.root).as_posix() for path in (self.json_path, self.map_folder, self.image_folder)
        )
        return f"layout {self.layout}: {json_path}, {maps}/, {images}/"

    def picture_name(self, file_name: str) -> str:
        """The picture's place in its folder; Cityscapes' own JSON files name pictures that nobody has."""
        if self.layout == "Cityscapes" and file_name.endswith(_NAMED_IN_CITYSCAPES):
            city = file_name.split("_")[0]
            return f"{city}/{file_name.removesuffix(_NAMED_IN_CITYSCAPES)}{_STORED_IN_CITYSCAPES}"
        return file_name


def find_panoptic(root: Path, split: str) -> PanopticFiles:
    """Find the files of one split.

    Args:
        root: Folder of the data set, in any of the layouts.
        split: Name of the split, ``train`` or ``val`` where the layout has names of its own.

    Raises:
        InputError: There is no such folder, or no JSON file of the split.
    """
    layout = f"expected a folder with images/, panoptic_{split}.json and panoptic_{split}/"
    if not root.is_dir():
        state = "this is a file" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {state}; {layout}")
    for files in _candidates(root, split):
        if files.json_path.is_file():
            return files
    splits = _splits(root)
    made = f"{layout}; `thingstuff data convert` makes one of what annotation tools export"
    hint = f"splits here: {', '.join(splits)}" if splits else _raw(root) or made
    raise InputError(f"{root / f'panoptic_{split}.json'}: there is no such file; {hint}")


def _candidates(root: Path, split: str) -> Iterator[PanopticFiles]:
    own = f"panoptic_{split}"
    yield _files("thingstuff", root, f"{own}.json", ["images"], [own], f"instances_{split}.json")
    for name in (f"{split}2017", split):
        yield coco_files(root, name)
    for json in (f"annotations/{split}.json", f"{split}.json"):
        maps, images = [f"annotations/{split}"], [f"images/{split}"]
        yield _files("split folders", root, json, images, maps, f"annotations/instances_{split}.json")
    yield cityscapes_files(root, split)
    yield ade20k_files(root, split)
    for version in ("v2.0", "v1.2"):
        yield mapillary_files(root, split, version)


def coco_files(root: Path, name: str) -> PanopticFiles:
    """The files of a split in COCO's layout, which is there called, for example, ``val2017``."""
    maps, images = [f"annotations/panoptic_{name}", f"panoptic_{name}"], [name, f"images/{name}"]
    return _files("COCO", root, f"annotations/panoptic_{name}.json", images, maps, f"annotations/instances_{name}.json")


def cityscapes_files(root: Path, split: str) -> PanopticFiles:
    """The files of a split in Cityscapes' layout."""
    own = f"gtFine/cityscapes_panoptic_{split}"
    return _files(
        "Cityscapes", root, f"{own}.json", [f"leftImg8bit/{split}"], [own], f"gtFine/cityscapes_instances_{split}.json"
    )


def ade20k_files(root: Path, split: str) -> PanopticFiles:
    """The files of a split in the layout of ADE20K's benchmark."""
    below = f"{home.name}/" if (home := ade20k.find_home(root)) != root else ""
    own, images = f"{below}ade20k_panoptic_{split}", f"{below}images/{ade20k.SPLITS.get(split, split)}"
    return _files("ADE20K", root, f"{own}.json", [images], [own], f"{below}ade20k_instance_{split}.json")


def mapillary_files(root: Path, split: str, version: mapillary.Version) -> PanopticFiles:
    """The files of a split in Mapillary Vistas' layout."""
    annotation = mapillary.annotation_folder(root, split, version).relative_to(root).as_posix()
    year = 2020 if version == "v2.0" else 2018
    return _files(
        f"Mapillary Vistas {version}",
        root,
        f"{annotation}/panoptic/panoptic_{year}.json",
        [f"{mapillary.SPLITS.get(split, split)}/images"],
        [f"{annotation}/panoptic"],
        f"{annotation}/instances.json",
    )


def _files(
    layout: str, root: Path, json: str, images: Sequence[str], maps: Sequence[str], instances: str
) -> PanopticFiles:
    image_folder, map_folder = (_first_folder(root / each for each in places) for places in (images, maps))
    return PanopticFiles(layout, root / json, image_folder, map_folder, root / instances, root)


def _first_folder(folders: Iterable[Path]) -> Path:
    """The first that is there, else the first."""
    listed = list(folders)
    return next((folder for folder in listed if folder.is_dir()), listed[0])


def _splits(root: Path) -> list[str]:
    """Names of the splits that ``find_panoptic`` would find."""
    names = {path.stem.removeprefix("panoptic_") for path in root.glob("panoptic_*.json")}
    for path in root.glob("annotations/panoptic_*.json"):
        names.add(path.stem.removeprefix("panoptic_").removesuffix("2017"))
    for folder in root.glob("images/*"):
        if folder.is_dir():
            names.add(folder.name.removesuffix("2017"))
    names |= {"train", "val"}
    return sorted(name for name in names if any(files.json_path.is_file() for files in _candidates(root, name)))


def _raw(root: Path) -> str | None:
    """What to do with a published data set as it was unpacked."""
    for name, recognize in (
        ("cityscapes", cityscapes.recognize),
        ("mapillary", mapillary.recognize),
        ("ade20k", ade20k.recognize),
    ):
        if recognize(root):
            return f"this is {name} as it was unpacked; run thingstuff data prepare {name} --root {root}"
    return None
