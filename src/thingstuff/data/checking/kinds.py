"""Every defect that ``check`` knows: its lasting name, how bad it is, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""An error stops training or falsifies scores; a warning is most likely a mistake; a note is worth knowing."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_FIX = "check with --fix does it"


class Kind(Enum):
    """A defect. The value is its code, which programs may rely on.

    Attributes:
        severity: How bad it is.
        title: What is wrong, in a few words.
        remedy: What to do.
        mendable: ``mend`` can repair at least the clear cases.
    """

    severity: Severity
    title: str
    remedy: str
    mendable: bool

    def __new__(cls, code: str, severity: Severity, title: str, remedy: str, mendable: bool = False) -> "Kind":
        """Make a kind of its parts."""
        kind = object.__new__(cls)
        kind._value_ = code
        kind.severity, kind.title, kind.remedy, kind.mendable = severity, title, remedy, mendable
        return kind

    # The JSON file as a whole.
    UNREADABLE_JSON = "unreadable-json", "error", "the JSON file cannot be used", "write or download it again"
    MALFORMED_ENTRY = (
        "malformed-entry",
        "error",
        "an entry of the JSON file cannot be used",
        "correct the field; cocodataset.org/#format-data describes all of them",
    )
    NOTHING_ANNOTATED = (
        "nothing-annotated",
        "error",
        "the split has no annotated picture",
        "add annotations, or remove the JSON file",
    )

    # Categories.
    ISTHING_MISSING = (
        "isthing-missing",
        "error",
        "a category does not say whether it is a thing",
        'write "isthing": 1 for countable things, 0 for stuff',
    )
    DUPLICATE_CATEGORY = (
        "duplicate-category",
        "error",
        "two categories share an id or a name",
        "give each its own, or merge them",
    )
    TOO_MANY_CATEGORIES = "too-many-categories", "error", "too many categories to tell apart", "merge rare ones"
    CATEGORIES_DIFFER = (
        "categories-differ",
        "error",
        "the splits do not have the same categories",
        "write one list of categories into the JSON file of every split",
    )
    COLORS_DIFFER = (
        "colors-differ",
        "note",
        "the splits give a category different colours",
        "write one list of categories into the JSON file of every split",
    )
    UNUSED_CATEGORY = (
        "unused-category",
        "note",
        "a category has no segment in any split",
        "nothing, or take it out of all JSON files: it cannot be learned",
    )
    CLASS_NOT_IN_TRAIN = (
        "class-not-in-train",
        "warning",
        "a class occurs only outside the training split",
        "move some of its pictures to the training split: it cannot be learned",
    )
    ONLY_CROWDS = (
        "only-crowds",
        "warning",
        "all segments of a thing class are crowds",
        "export masks as objects (some tools mark every mask iscrowd 1): nothing is learned from crowds",
    )

    # Pictures as the JSON file lists them.
    DUPLICATE_IMAGE_ID = "duplicate-image-id", "error", "two pictures share an id", "give each its own"
    DUPLICATE_FILE_NAME = (
        "duplicate-file-name",
        "error",
        "a file is listed twice",
        "list every picture and every PNG file once",
    )
    UNKNOWN_IMAGE = (
        "unknown-image",
        "error",
        "an annotation belongs to no listed picture",
        "add the picture to 'images', or remove the annotation",
    )
    ANNOTATED_TWICE = "annotated-twice", "error", "a picture has two annotations", "keep one"
    NOT_ANNOTATED = (
        "not-annotated",
        "note",
        "a listed picture has no annotation",
        "annotate it: until then it is left out",
    )

    # Segments as the JSON file lists them.
    ZERO_ID = (
        "zero-id",
        "error",
        "a segment has the id 0, which means void",
        f"number segments from 1; where its area shows that all pixels of value 0 belong to it, {_FIX}",
        True,
    )
    ID_OUT_OF_RANGE = (
        "id-out-of-range",
        "error",
        "a segment has an id that no PNG file can hold",
        "number segments from 1 to 16777215",
    )
    DUPLICATE_SEGMENT_ID = (
        "duplicate-segment-id",
        "error",
        "two segments of a picture share an id",
        f"give each its own; where the entries are equal, or areas and boxes tell the two apart, {_FIX}",
        True,
    )
    UNKNOWN_CATEGORY = (
        "unknown-category",
        "error",
        "a segment has a category that is not listed",
        "add it to 'categories', or correct category_id",
    )
    CROWD_ON_STUFF = (
        "crowd-on-stuff",
        "warning",
        "a stuff segment is marked as a crowd",
        "write iscrowd 0: only things come in crowds",
    )
    STUFF_IN_PIECES = (
        "stuff-in-pieces",
        "warning",
        "a stuff class has several segments in one picture",
        "paint them with one id: otherwise each counts as missed or found on its own",
    )
    INCOMPLETE_SEGMENT = (
        "incomplete-segment",
        "note",
        "a segment lacks area, bbox or iscrowd, which other tools need",
        f"write them; {_FIX}",
        True,
    )
    NOTHING_LABELLED = (
        "nothing-labelled",
        "warning",
        "a picture has no segment at all",
        "label it, or remove its annotation",
    )
    NO_THING = "no-thing", "note", "a picture has no thing", "nothing, if that is so"
    NO_STUFF = "no-stuff", "note", "a picture has no stuff", "nothing, if that is so"

    # Files.
    MISSING_FOLDER = "missing-folder", "error", "a folder is missing", "put it there"
    MISSING_PICTURE = "missing-picture", "error", "a listed picture is missing", "put it there, or correct file_name"
    MISSING_MAP = "missing-map", "error", "a listed PNG file is missing", "put it there, or correct file_name"
    EXTRA_PICTURE = (
        "extra-picture",
        "note",
        "a picture is listed in no JSON file",
        "list and annotate it, or remove it",
    )
    EXTRA_MAP = "extra-map", "warning", "a PNG file with labels is listed in no annotation", "list it, or remove it"
    DAMAGED_PICTURE = "damaged-picture", "error", "a picture cannot be read", "copy or download it again"
    DAMAGED_MAP = "damaged-map", "error", "a PNG file with labels cannot be read", "write or copy it again"
    WRONG_PICTURE_SIZE = (
        "wrong-picture-size",
        "error",
        "a picture has another size than the JSON file says",
        "correct width and height, or take the picture that was annotated",
    )
    EXIF_ROTATION = (
        "exif-rotation",
        "error",
        "a picture was annotated lying on its side",
        "turn its pixels and remove the EXIF orientation, or turn the PNG file and swap width and height",
    )
    EXIF_UNCLEAR = (
        "exif-unclear",
        "warning",
        "a picture is turned by EXIF, and its size does not show whether its labels are",
        "look at it with `thingstuff data show`",
    )
    WRONG_MAP_SIZE = (
        "wrong-map-size",
        "error",
        "a PNG file has another size than the JSON file says",
        "paint the labels at the size of the upright picture",
    )
    WRONG_MAP_FORMAT = (
        "wrong-map-format",
        "error",
        "a file with labels is no 8-bit RGB PNG file",
        "write ids as R + 256 G + 65536 B (0 is void)",
    )
    SIXTEEN_BIT = "sixteen-bit", "note", "a picture has 16 bits per channel", "nothing, if that is meant"
    NOT_RGB = "not-rgb", "note", "a picture is not plain RGB", "nothing, if that is meant"
    MIXED_CHANNELS = (
        "mixed-channels",
        "warning",
        "pictures differ in their number of channels or bits",
        "convert them to one kind: a network takes one kind",
    )
    UNSUPPORTED_PIXELS = (
        "unsupported-pixels",
        "error",
        "a picture has 32-bit pixels, which have no fixed white",
        "convert it to 8 or 16 bits",
    )

    # Pixels against the JSON file.
    UNLISTED_ID = (
        "unlisted-id",
        "error",
        "a PNG file has an id that the JSON file does not list",
        "add it to segments_info, or paint it 0 (void)",
    )
    NO_PIXELS = (
        "no-pixels",
        "error",
        "a listed segment has no pixel",
        f"paint it, or remove it from segments_info; {_FIX}",
        True,
    )
    WRONG_AREA = (
        "wrong-area",
        "error",
        "the area in the JSON file is not the number of pixels",
        f"write what was counted: scores rest on it; {_FIX}",
        True,
    )
    WRONG_BBOX = (
        "wrong-bbox",
        "warning",
        "the box in the JSON file is not that of the pixels",
        f"write what was counted; {_FIX}",
        True,
    )
    TINY_SEGMENT = (
        "tiny-segment",
        "note",
        "a segment has fewer than 10 pixels",
        "look whether it is a slip of the pen; paint it 0 (void) if so",
    )
    MOSTLY_VOID = (
        "mostly-void",
        "note",
        "over nine tenths of a picture are not labelled",
        "nothing, if that is so: nothing is learned from void",
    )

    # Between splits.
    SPLIT_LEAK = (
        "split-leak",
        "warning",
        "a picture looks like one of another split",
        "keep both in one split: scores would be too good",
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect at one place.

    Attributes:
        kind: What it is.
        split: The split; None where it is about several.
        file: The file to look at, relative to the root where it lies below it.
        text: What was found there and what was expected.
        segment: Id of the segment; None where it is about no single one.
        picture: ``file_name`` of the picture; None where it is about no single one.
    """

    kind: Kind
    split: str | None
    file: str
    text: str
    segment: int | None = None
    picture: str | None = None


def count_severities(findings: Sequence[Finding]) -> dict[Severity, int]:
    """How many findings there are of each severity."""
    return {severity: sum(finding.kind.severity == severity for finding in findings) for severity in SEVERITIES}
