"""The files of a data set: where its splits lie, what is missing, and what nobody lists."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thingstuff.data.checking.kinds import Finding, Kind
from thingstuff.data.checking.records import ListedPicture, Listing, SplitFiles, relative
from thingstuff.data.images import PICTURE_SUFFIXES
from thingstuff.data.layouts import find_panoptic
from thingstuff.errors import InputError


@dataclass(frozen=True, slots=True)
class CheckedPicture:
    """An annotated picture and where its files are.

    Attributes:
        split: Its split.
        listed: What the JSON file says.
        photo: Its file; None where there is none.
        map: Its PNG file; None where there is none.
    """

    split: str
    listed: ListedPicture
    photo: Path | None
    map: Path | None


def find_splits(root: Path, split: str | None = None) -> tuple[SplitFiles, ...]:
    """Where the splits of a data set lie, in any layout that ``layouts`` lists, the training split first.

    Args:
        root: Folder of the data set.
        split: Only this one. None: all.

    Raises:
        InputError: There is no such folder, or no such split in it.
    """
    if split is not None:
        return (SplitFiles(split, find_panoptic(root, split)),)
    found = {}
    for name in _likely_splits(root):
        with suppress(InputError):
            place = find_panoptic(root, name)
            # Two names may mean the same files, as val and val2017.
            found.setdefault(place.json_path, SplitFiles(name, place))
    return tuple(found.values()) or (SplitFiles("train", find_panoptic(root, "train")),)


def _likely_splits(root: Path) -> list[str]:
    stems = [path.stem for place in (root, root / "annotations") for path in place.glob("panoptic_*.json")]
    written = {stem.removeprefix("panoptic_") for stem in stems}
    # In COCO's layout, train2017 is what the split train is called.
    names = {"train", "val", *written, *(name.removesuffix("2017") for name in written)}
    names |= {path.name for path in (root / "images").glob("*") if path.is_dir()}
    return sorted(names, key=lambda name: (not name.startswith("train"), name))


def find_files(listings: Sequence[Listing], root: Path) -> tuple[list[CheckedPicture], list[Finding]]:
    """The annotated pictures with the files that are there, and what is missing."""
    pictures, findings = [], []
    present: dict[Path, frozenset[str] | None] = {}
    for listing in listings:
        files = listing.files
        for folder, names in (
            (files.images, [picture.file_name for picture in listing.pictures]),
            (files.maps, [picture.map_name for picture in listing.pictures]),
        ):
            if folder not in present:
                present[folder] = _names_in(folder)
            if present[folder] is None and any(names):
                text = f"{sum(name is not None for name in names)} listed files should be there"
                findings.append(Finding(Kind.MISSING_FOLDER, files.split, relative(folder, root), text))
        for listed in listing.pictures:
            stored = None if listed.file_name is None else files.stored(listed.file_name)
            photo = _present(files.images, stored, present[files.images])
            png = _present(files.maps, listed.map_name, present[files.maps])
            for kind, folder, name, found in (
                (Kind.MISSING_PICTURE, files.images, stored, photo),
                (Kind.MISSING_MAP, files.maps, listed.map_name, png),
            ):
                if found is None and name is not None and present[folder] is not None:
                    file = relative(folder / name, root)
                    findings.append(Finding(kind, files.split, file, "no such file", picture=listed.file_name))
            pictures.append(CheckedPicture(files.split, listed, photo, png))
    return pictures, findings


def find_extra(listings: Sequence[Listing], others: Sequence[Listing], root: Path) -> Iterator[Finding]:
    """Files that no JSON file lists.

    Args:
        listings: Of the splits that are checked.
        others: Of the other splits, whose files are no findings.
        root: The data set.
    """
    everyone = (*listings, *others)
    map_folders = {listing.files.maps for listing in everyone}
    unsure = {listing.files.images for listing in everyone if not listing.complete}
    for folder in dict.fromkeys(listing.files.images for listing in listings if listing.files.images not in unsure):
        sharing = [listing for listing in everyone if listing.files.images == folder]
        listed = {listing.files.stored(name) for listing in sharing for name in listing.image_names}
        inside = [path for path in map_folders if path != folder and path.is_relative_to(folder)]
        for name in sorted((_names_in(folder) or frozenset()) - listed):
            path = folder / name
            if path.suffix.lower() in PICTURE_SUFFIXES and not any(path.is_relative_to(other) for other in inside):
                yield Finding(Kind.EXTRA_PICTURE, None, relative(path, root), "in no JSON file")
    for listing in listings:
        if not listing.complete:
            continue
        folder = listing.files.maps
        listed = {picture.map_name for picture in listing.pictures if picture.map_name is not None}
        for name in sorted((_names_in(folder) or frozenset()) - listed):
            if name.lower().endswith(".png"):
                yield Finding(Kind.EXTRA_MAP, listing.files.split, relative(folder / name, root), "in no annotation")


def _names_in(folder: Path) -> frozenset[str] | None:
    """All files below a folder by their path in it, listed at once, which stays fast on network drives."""
    if not folder.is_dir():
        return None
    names = []
    for parent, _, files in os.walk(folder):
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        names += files if below == "." else [f"{below}/{name}" for name in files]
    return frozenset(names)


def _present(folder: Path, name: str | None, names: frozenset[str] | None) -> Path | None:
    if name is None or names is None:
        return None
    path = folder / name
    if name in names:
        return path
    try:
        # File systems that ignore case or accents find more than the listing shows.
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None  # no file system has such a name
