"""The check of a data set: JSON files, file listings, every pixel, and what the splits have in common.

Nothing that is wrong stops it: everything becomes a finding.
"""

import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thingstuff.data.checking.files import CheckedPicture, find_extra, find_files, find_splits
from thingstuff.data.checking.kinds import Finding, Kind, count_severities
from thingstuff.data.checking.likeness import find_alike
from thingstuff.data.checking.listing import read_listing
from thingstuff.data.checking.pixels import PictureFiles, SeenPicture, look_at
from thingstuff.data.checking.records import ListedCategory, Listing, relative, shown
from thingstuff.data.checking.summary import PERCENTILES, SplitSummary, order_categories, summarize
from thingstuff.errors import InterruptedWork

Progress = Callable[[Iterable[SeenPicture], int], Iterable[SeenPicture]]
"""Shows how far it is: gets the pictures as they are done, and how many there are."""
_WORTH_A_POOL = 300
"""Pictures from which on starting processes takes less time than it saves."""
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class CheckedData:
    """What the check of a data set found.

    Attributes:
        root: The data set.
        places: Where each split was found, in a line.
        categories: In class order: the position is the class index that training will use.
        splits: What each holds.
        pictures: The annotated ones of all splits.
        findings: What is wrong, errors first.
    """

    root: Path
    places: tuple[str, ...]
    categories: tuple[ListedCategory, ...]
    splits: tuple[SplitSummary, ...]
    pictures: tuple[CheckedPicture, ...]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything for a program; shares are fractions."""
        return {
            "root": str(self.root),
            "places": list(self.places),
            "counts": count_severities(self.findings),
            "findings": [finding_json(finding) for finding in self.findings],
            "classes": [
                {
                    "index": index,
                    "id": category.id,
                    "name": category.name,
                    "isthing": category.isthing,
                    "splits": {
                        split.split: {
                            "pictures": split.classes[category.id].pictures,
                            "segments": split.classes[category.id].segments,
                            "pixel_share": split.classes[category.id].share,
                        }
                        for split in self.splits
                    },
                }
                for index, category in enumerate(self.categories)
            ],
            "splits": {
                split.split: {
                    "pictures": split.pictures,
                    "segments": split.segments,
                    "void_share": split.void,
                    "void_share_median": split.void_median,
                    "objects": {
                        "small": split.objects.small,
                        "medium": split.objects.medium,
                        "large": split.objects.large,
                        "side_percentiles": dict(zip(map(str, PERCENTILES), split.objects.sides, strict=False)),
                    },
                }
                for split in self.splits
            },
        }


def finding_json(finding: Finding) -> dict[str, Any]:
    """One finding for a program."""
    return {
        "code": finding.kind.value,
        "severity": finding.kind.severity,
        "split": finding.split,
        "file": finding.file,
        "picture": finding.picture,
        "segment": finding.segment,
        "text": finding.text,
        "title": finding.kind.title,
        "remedy": finding.kind.remedy,
    }


def check_data(
    root: Path,
    split: str | None = None,
    *,
    workers: int | None = None,
    progress: Progress = lambda seen, _: seen,
) -> CheckedData:
    """Check a data set: everything that can be seen before training.

    Args:
        root: The data set.
        split: Only this one. None: all.
        workers: Processes. None: one for each core.
        progress: Shows how far it is.

    Raises:
        InputError: There is no such data set or split.
        InterruptedWork: A process was killed.
    """
    listings = [read_listing(files, root) for files in find_splits(root, split)]
    checked = {listing.files.json for listing in listings}
    others = [files for files in find_splits(root) if files.json not in checked]
    findings = [finding for listing in listings for finding in listing.findings]
    findings += _check_categories(listings)
    pictures, missing = find_files(listings, root)
    findings += missing
    findings += find_extra(listings, [read_listing(files, root) for files in others], root)

    tasks = [
        PictureFiles(_text(picture.photo), _text(picture.map), picture.listed.size, picture.listed.segments)
        for picture in pictures
    ]
    seen = list(progress(_look_at_all(tasks, workers), len(tasks)))
    findings += _place(pictures, seen, root)
    findings += _check_channels(pictures, seen, root)
    findings += _find_leaks(pictures, seen, listings, root)
    categories = _merge_categories(listings)
    summaries = []
    for listing in listings:
        mine = [row for row, picture in enumerate(pictures) if picture.split == listing.files.split]
        listed, shows = [pictures[row].listed for row in mine], [seen[row] for row in mine]
        summaries.append(summarize(listing.files.split, categories, listed, shows))
    findings += _check_classes(categories, listings, root)
    order = {kind: position for position, kind in enumerate(Kind)}
    severities = {"error": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda finding: (severities[finding.kind.severity], order[finding.kind]))
    places = tuple(listing.files.place.describe() for listing in listings)
    return CheckedData(root, places, categories, tuple(summaries), tuple(pictures), tuple(findings))


# --- categories and classes ---


def _merge_categories(listings: Sequence[Listing]) -> tuple[ListedCategory, ...]:
    """The categories of all splits; where they differ, as the first split has them."""
    merged: dict[int, ListedCategory] = {}
    for listing in listings:
        for category in listing.categories:
            merged.setdefault(category.id, category)
    return order_categories(merged.values())


def _check_categories(listings: Sequence[Listing]) -> Iterator[Finding]:
    readable = [listing for listing in listings if listing.categories]
    for listing in readable[1:]:
        first, here = readable[0], listing.files
        mine, theirs = ({category.id: category for category in part.categories} for part in (listing, first))
        for identity in sorted(mine.keys() | theirs.keys()):
            a, b = mine.get(identity), theirs.get(identity)
            if a is None or b is None:
                lacking = here.json.name if a is None else first.files.json.name
                category = a or b
                name = shown(category and category.name)
                yield Finding(
                    Kind.CATEGORIES_DIFFER, here.split, here.json.name, f"{lacking} lacks category {identity} ({name})"
                )
                continue
            for field in ("name", "isthing", "color"):
                value, other = getattr(a, field), getattr(b, field)
                if value != other:
                    kind = Kind.COLORS_DIFFER if field == "color" else Kind.CATEGORIES_DIFFER
                    text = f"category {identity}: {field} is {shown(value)}, in {first.files.json.name} {shown(other)}"
                    yield Finding(kind, here.split, here.json.name, text)


def _check_classes(categories: Sequence[ListedCategory], listings: Sequence[Listing], root: Path) -> Iterator[Finding]:
    """Look for classes that cannot be learned: by the lists, so that a missing folder does not take all of them."""
    counts = {
        listing.files.split: Counter(s.category_id for picture in listing.pictures for s in picture.segments)
        for listing in listings
    }
    crowds = Counter(
        segment.category_id
        for listing in listings
        for picture in listing.pictures
        for segment in picture.segments
        if segment.crowd
    )
    training = next((split for split in counts if split.startswith("train") and counts[split]), None)
    file = relative(listings[0].files.json, root)
    for category in categories:
        name = f"{shown(category.name)} (category {category.id})"
        used = {split: count[category.id] for split, count in counts.items() if count[category.id]}
        if not used:
            yield Finding(Kind.UNUSED_CATEGORY, None, file, name)
        elif training is not None and not any(split.startswith("train") for split in used):
            text = ", ".join(f"{count} in {split}" for split, count in used.items())
            yield Finding(Kind.CLASS_NOT_IN_TRAIN, training, file, f"{name}: segments: {text}")
        total = sum(used.values())
        if category.isthing and total and crowds[category.id] == total:
            yield Finding(Kind.ONLY_CROWDS, None, file, f"{name}: {total} segments in all splits")


# --- pixels ---


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _look_at_all(tasks: Sequence[PictureFiles], workers: int | None) -> Iterator[SeenPicture]:
    workers = workers or _cores()
    if workers == 1 or len(tasks) < _WORTH_A_POOL:
        yield from map(look_at, tasks)
        return
    # Fresh processes: forking one in which a progress bar's thread runs may hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(look_at, tasks, chunksize=_AT_ONCE)
    except BrokenProcessPool as error:
        raise InterruptedWork(
            "a process of the check was killed, most likely for want of memory; run again with --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Cores that this process may use, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _place(pictures: Sequence[CheckedPicture], seen: Sequence[SeenPicture], root: Path) -> Iterator[Finding]:
    """What the pixels show, as findings of their files."""
    for picture, shows in zip(pictures, seen, strict=True):
        for sight in shows.sights:
            path = picture.photo if sight.of_photo else picture.map
            assert path is not None
            file, name = relative(path, root), picture.listed.file_name
            yield Finding(sight.kind, picture.split, file, sight.text, sight.segment, name)


def _check_channels(pictures: Sequence[CheckedPicture], seen: Sequence[SeenPicture], root: Path) -> Iterator[Finding]:
    kinds = Counter(shows.channels for shows in seen if shows.channels is not None and shows.channels[1] < 32)
    # Grey pictures among coloured ones are usual, as in COCO, and read as coloured.
    if len(kinds) < 2 or kinds.keys() <= {(1, 8), (3, 8)}:
        return
    rare = min(kinds, key=lambda kind: kinds[kind])
    picture = next(picture for picture, shows in zip(pictures, seen, strict=True) if shows.channels == rare)
    assert picture.photo is not None
    counts = "; ".join(f"{count} pictures of {kind[0]} x {kind[1]} bits" for kind, count in kinds.most_common())
    text = f"{counts}; this one is of the rarest kind"
    file, name = relative(picture.photo, root), picture.listed.file_name
    yield Finding(Kind.MIXED_CHANNELS, None, file, text, picture=name)


# --- between splits ---


def _find_leaks(
    pictures: Sequence[CheckedPicture], seen: Sequence[SeenPicture], listings: Sequence[Listing], root: Path
) -> Iterator[Finding]:
    """Pictures that look like one of an earlier split, each with the most alike."""
    rows: dict[str, list[int]] = {listing.files.split: [] for listing in listings}
    for row, (picture, shows) in enumerate(zip(pictures, seen, strict=True)):
        if shows.thumb is not None:
            rows[picture.split].append(row)
    splits = [(split, np.stack([seen[row].thumb for row in found])) for split, found in rows.items() if found]  # pyright: ignore[reportCallIssue, reportArgumentType]
    for position, (split, thumbs) in enumerate(splits):
        for earlier, others in splits[:position]:
            alike: dict[int, dict[int, int]] = defaultdict(dict)
            for mine, other, distance in (*find_alike(thumbs, others), *_same_files(pictures, rows, split, earlier)):
                alike[mine][other] = distance
            for mine, distances in sorted(alike.items()):
                nearest = min(distances, key=lambda other: (distances[other], other))
                photo, twin = pictures[rows[split][mine]], pictures[rows[earlier][nearest]]
                assert photo.photo is not None
                assert twin.photo is not None
                where = "the same file is in" if twin.photo == photo.photo else "like"
                text = f"{where} {earlier}: {relative(twin.photo, root)}, {distances[nearest]} of 128 bits differ"
                more = f"; and {len(distances) - 1} more" if len(distances) > 1 else ""
                file, name = relative(photo.photo, root), photo.listed.file_name
                yield Finding(Kind.SPLIT_LEAK, split, file, f"{text}{more}", picture=name)


def _same_files(
    pictures: Sequence[CheckedPicture], rows: dict[str, list[int]], split: str, earlier: str
) -> Iterator[tuple[int, int, int]]:
    """Pairs of the same file, which may be too plain to be found by their looks."""
    place = {pictures[row].photo: position for position, row in enumerate(rows[earlier])}
    for position, row in enumerate(rows[split]):
        if pictures[row].photo in place:
            yield position, place[pictures[row].photo], 0
