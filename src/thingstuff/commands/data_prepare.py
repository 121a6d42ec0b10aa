"""The action `data prepare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from thingstuff.cli import FAILED, SUCCESS
from thingstuff.commands.terminal import parse, say, say_json, warn
from thingstuff.errors import InputError

_PREPARE = """Get a published data set ready: says which files to get where and under which licence, unpacks their
archives where they lie in ROOT, counts pictures, and builds the panoptic files that its publisher does not give away.

Nothing is downloaded and no picture is copied. Interrupted at any time, the same command goes on where it was. The exit
code is 0 when all is there, 1 when pictures are fewer than in the original, and 2 when files are missing or damaged."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options of `data prepare`."""

    name: Positional[Literal["coco", "cityscapes", "mapillary", "ade20k"]]
    """Which data set."""
    root: Path
    """Folder for its files, or with them; `--data` of `thingstuff train` takes the same."""
    version: Literal["v1.2", "v2.0"] | None = None
    """Of Mapillary Vistas' annotation. None: all that are there."""
    json: bool = False
    """Print as JSON."""


def prepare(words: list[str]) -> int:
    """Get a published data set ready."""
    options = parse(PrepareOptions, "data prepare", _PREPARE, words)
    if options.version is not None and options.name != "mapillary":
        raise InputError(f"--version {options.version}: only Mapillary Vistas has versions; leave it out")
    from thingstuff.data.prepare import PUBLISHED, PreparedSplit, explain, missing_parts, prepare, unpack_archives
    from thingstuff.progress import track

    published = PUBLISHED[options.name]
    unpack_archives(options.name, options.root, track)
    missing = missing_parts(options.name, options.root)
    if not options.json:
        say("\n".join(explain(options.name, missing)))
    splits: tuple[PreparedSplit, ...] = () if missing else prepare(options.name, options.root, track, options.version)
    if options.json:
        say_json(
            {
                "name": options.name,
                "title": published.title,
                "page": published.page,
                "licence": published.licence,
                "missing": [{"path": part.path, "archive": part.archive, "url": part.url} for part in missing],
                "splits": [
                    {
                        "split": each.split,
                        "pictures": each.pictures,
                        "expected": each.expected,
                        "built": each.built,
                        "layout": each.layout,
                    }
                    for each in splits
                ],
            }
        )
    if missing:
        noun = "part is" if len(missing) == 1 else "parts are"
        archives = ", ".join(dict.fromkeys(part.archive for part in missing))
        raise InputError(
            f"{options.root}: {len(missing)} {noun} missing; get {archives}, put it there, and run this again"
        )
    if not options.json:
        for each in splits:
            made = "panoptic files are there" if each.built is None else f"{each.built} PNG files built"
            say(f"  {each.split}: {each.pictures} pictures, {made}; {each.layout}")
    few = [each for each in splits if each.pictures != each.expected]
    for each in few:
        warn(f"{each.split} has {each.pictures} annotated pictures, the original {each.expected}; unpack it again")
    return FAILED if few else SUCCESS
