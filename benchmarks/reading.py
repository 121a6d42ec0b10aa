"""Read, transform and check every picture of a data set in the COCO panoptic format.

Shows that every segment's area, box and crowd flag survives reading and the identity transform, and how many pictures
a second one process handles::

    python benchmarks/reading.py ROOT SPLIT
"""

import argparse
import time
from pathlib import Path
from typing import Any

from thingstuff.data.coco import open_coco_panoptic, panoptic_truth
from thingstuff.data.coco_json import read_document
from thingstuff.data.transforms import Augmentation, augment, make_targets
from thingstuff.labels import LabelSet
from thingstuff.structures import Sample, Targets

IDENTITY = Augmentation(short_sides=(0,), max_side=0)


def main() -> None:
    """Check one split and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("split")
    arguments = parser.parse_args()
    source = open_coco_panoptic(arguments.root, arguments.split)
    document = read_document(source.json_path)
    annotations = {annotation["image_id"]: annotation for annotation in document["annotations"]}
    seconds, num_segments, num_crowds, changed = 0.0, 0, 0, []
    for index in range(len(source)):
        start = time.perf_counter()
        sample = augment(source.read(index), IDENTITY)
        targets = make_targets(sample, source.labels)
        seconds += time.perf_counter() - start
        expected = annotations[sample.image_id]["segments_info"]
        num_segments += len(expected)
        num_crowds += sum(segment["iscrowd"] for segment in expected)
        if not _kept(sample, source.labels, expected):
            changed.append(f"{sample.file_name}: segments")
        if sorted(_thing_facts(expected, source.labels)) != sorted(_target_facts(targets)):
            changed.append(f"{sample.file_name}: targets")
    print(f"{arguments.root}/{arguments.split}: {len(source)} pictures, {num_segments} segments, {num_crowds} crowds")
    print(f"read, transformed and turned into targets: {len(source) / seconds:.1f} pictures/s in one process")
    print(f"pictures whose areas, boxes or crowd flags changed: {len(changed)}", *changed[:10], sep="\n  ")
    raise SystemExit(1 if changed else 0)


def _kept(sample: Sample, labels: LabelSet, expected: list[dict[str, Any]]) -> bool:
    counted = {
        (segment.id, segment.category_id, segment.area, segment.bbox, int(segment.iscrowd))
        for segment in panoptic_truth(sample, labels).segments
    }
    return counted == {
        (segment["id"], segment["category_id"], segment["area"], tuple(segment["bbox"]), segment["iscrowd"])
        for segment in expected
    }


def _thing_facts(expected: list[dict[str, Any]], labels: LabelSet) -> list[tuple[Any, ...]]:
    """Thing index, box, area and crowd flag of each thing, from the JSON file."""
    facts = []
    for segment in expected:
        thing = labels.index[segment["category_id"]] - labels.num_stuff
        if thing >= 0:
            left, top, width, height = segment["bbox"]
            facts.append((thing, left, top, left + width, top + height, segment["area"], bool(segment["iscrowd"])))
    return facts


def _target_facts(targets: Targets) -> list[tuple[Any, ...]]:
    """The same, from the targets."""
    rows = zip(targets.labels.tolist(), targets.boxes.tolist(), targets.masks, targets.crowd.tolist(), strict=True)
    return [(thing, *box, int(mask.sum()), crowd) for thing, box, mask, crowd in rows]


if __name__ == "__main__":
    main()
