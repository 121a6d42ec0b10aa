"""Published data sets whose annotation is an id map already, in one or several PNG files for each picture.

A reader of such a data set lists the files and says how to decode them; everything else is here. What it yields is a
drawing for ``thingstuff data convert``, the annotation alone for ``thingstuff data prepare``, or samples to train on.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from thingstuff.data.drawn.drawing import Drawing, DrawnCategory, Piece
from thingstuff.data.drawn.lookup import is_file, picture_size
from thingstuff.data.images import locate_segments, read_image
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import VOID_ID, Sample, Size, Truth, TruthSegment


@dataclass(frozen=True, slots=True)
class MapFiles:
    """The files of one annotated picture.

    Attributes:
        image_id: The data set's own name of the picture.
        image: The picture.
        maps: What the annotation is decoded from.
        split: ``train`` or ``val``.
    """

    image_id: str
    image: Path
    maps: tuple[Path, ...]
    split: str


@dataclass(frozen=True)
class IdMapSource:
    """The annotated pictures of a data set of id maps, all splits together.

    Attributes:
        labels: The classes.
        files: Of every picture.
        decode: From the files of a picture to its annotation.
    """

    labels: LabelSet
    files: tuple[MapFiles, ...]
    decode: Callable[[MapFiles], Truth]

    @property
    def categories(self) -> tuple[DrawnCategory, ...]:
        """In class order."""
        return tuple(DrawnCategory(each.name, each.isthing, each.color) for each in self.labels.categories)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Drawing:
        """Decode the annotation of one picture; every segment is a piece.

        Raises:
            InputError: The annotation is damaged, or does not fit the picture.
        """
        files, truth = self.files[index], self.read_truth(index)
        located = locate_segments(truth.ids, [segment.id for segment in truth.segments])
        pieces = []
        for row, segment in enumerate(truth.segments):
            left, top, right, bottom = located.boxes[row].tolist()
            mask = located.index[top:bottom, left:right] == row + 1
            pieces.append(Piece(self.labels.categories[segment.label].name, mask, (top, left), None, segment.crowd))
        return Drawing(files.image, (truth.ids.shape[0], truth.ids.shape[1]), tuple(pieces), files.split)

    def read_truth(self, index: int) -> Truth:
        """Decode the annotation of one picture.

        Raises:
            InputError: The annotation is damaged, or does not fit the picture.
        """
        files = self.files[index]
        truth, size = self.decode(files), picture_size(files.image)
        if truth.ids.shape != size:
            raise InputError(
                f"{files.maps[-1]}: {truth.ids.shape[1]} x {truth.ids.shape[0]} pixels (width x height), but "
                f"{files.image.name} has {size[1]} x {size[0]}; unpack both again"
            )
        return truth

    def split(self, name: str) -> "IdMapPictures":
        """The pictures of one split, as training takes them.

        Raises:
            InputError: There is no such split.
        """
        files = tuple(each for each in self.files if each.split == name)
        if not files:
            there = ", ".join(sorted({each.split for each in self.files}))
            raise InputError(f"there is no split {name!r} with annotations; splits here: {there}")
        return IdMapPictures(IdMapSource(self.labels, files, self.decode))


@dataclass(frozen=True)
class IdMapPictures:
    """The annotated pictures of one split (a ``PictureSource``); made by ``IdMapSource.split``."""

    source: IdMapSource

    @property
    def labels(self) -> LabelSet:
        """The classes of the annotation."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def picture_sizes(self) -> list[Size]:
        """Original size of every picture, without decoding any."""
        return list(self._sizes)

    @cached_property
    def _sizes(self) -> list[Size]:
        return [picture_size(files.image) for files in self.source.files]

    def read(self, index: int) -> Sample:
        """Decode one picture and its annotation.

        Raises:
            InputError: Picture or annotation are damaged or contradict each other.
        """
        files, truth = self.source.files[index], self.source.read_truth(index)
        image = read_image(files.image)
        return Sample(image, truth, files.image_id, files.image.name, (image.shape[0], image.shape[1]))


# --- for the readers ---


def shipped_labels(file: str) -> LabelSet:
    """The classes in a TOML file of this package, named by its path in it."""
    text = resources.files("thingstuff").joinpath(file).read_text(encoding="utf-8")
    return LabelSet.from_coco(tomllib.loads(text)["category"], file)


def read_numbers(path: Path) -> Int32[np.ndarray, "H W"]:
    """Read a PNG file whose pixels are numbers: of one channel, 8 or 16 bits, with palette or without.

    Raises:
        InputError: The file is missing, damaged, or of another kind.
    """
    pixels = _read_pixels(path)
    if pixels.ndim != 2 or not np.issubdtype(pixels.dtype, np.integer) or not 0 <= pixels.min() <= pixels.max() < 2**16:
        raise InputError(f"{path}: {_kind(pixels)}, not one channel of 8 or 16 bits; unpack the original file again")
    return pixels.astype(np.int32)


def read_colors(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a PNG file whose channels are numbers of 8 bits.

    Raises:
        InputError: The file is missing, damaged, or of another kind.
    """
    pixels = _read_pixels(path)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        raise InputError(f"{path}: {_kind(pixels)}, not three channels of 8 bits; unpack the original file again")
    return np.ascontiguousarray(pixels[..., :3])


def _read_pixels(path: Path) -> np.ndarray:
    try:
        if not is_file(path):  # opening a pipe would wait for ever
            raise OSError("no file")
        with Image.open(path) as image:
            return np.asarray(image)
    except Exception as error:  # whatever Pillow raises on a damaged file, the reader of pictures says it in a line
        read_image(path)
        raise InputError(f"{path}: cannot be read ({error}); unpack the original file again") from error


def _kind(pixels: np.ndarray) -> str:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return f"has {channels} channel{'s' if channels > 1 else ''} of type {pixels.dtype}"


def renumber(
    numbers: Int32[np.ndarray, "H W"], meaning: Callable[[int], TruthSegment | None]
) -> tuple[Int32[np.ndarray, "H W"], dict[int, TruthSegment]]:
    """Replace every number of a map by the id of the segment that it stands for.

    Args:
        numbers: What the file has, 0 to 65535.
        meaning: The segment of a number; None: void. Several numbers may be one segment.

    Returns:
        The id map, and its segments by id.
    """
    # By a table of all numbers up to the largest, 65535 at most: much faster than sorting the pixels.
    found = np.flatnonzero(np.bincount(numbers.ravel())).tolist()
    segments = {number: meaning(number) for number in found}
    table = np.full(max(found, default=0) + 1, VOID_ID, dtype=np.int32)
    for number, segment in segments.items():
        table[number] = VOID_ID if segment is None else segment.id
    return table[numbers], {each.id: each for each in segments.values() if each is not None}


def list_files(
    split: str, maps: Mapping[str, Sequence[Path]], images: Mapping[str, Path], image_folder: Path
) -> list[MapFiles]:
    """Bring annotations and pictures together by their names.

    Args:
        split: ``train`` or ``val``.
        maps: Files of every annotation, by the name of the picture.
        images: Files of the pictures, by name; those without annotation are left out.
        image_folder: Where pictures should be, for messages.

    Raises:
        InputError: There is an annotation without picture.
    """
    missing = [name for name in sorted(maps) if name not in images]
    if missing:
        raise InputError(
            f"{image_folder}: {len(missing)} pictures of annotations are missing, the first is {missing[0]}; "
            "unpack the pictures there"
        )
    return [MapFiles(name, images[name], tuple(maps[name]), split) for name in sorted(maps)]
