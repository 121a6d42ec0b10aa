"""Panoptic quality: our evaluator beside the usual ways to compute it, in one run.

Draws pairs of panoptic maps (480 x 640, about 15 segments), writes them as COCO panoptic files and measures, on one
core each:

* from files: the plain route (Pillow, then numpy's unique over pixels, as the reference evaluator works), ours without
  the extra ``[fast]`` and ours with it;
* from predictions in memory: the route of Detectron2 (encode the prediction as PNG, write, then score from files), ours
  without the extra and with it, the ground truth kept in memory;
* torchmetrics, where it is installed, on a few pairs.

All results are compared before anything is printed::

    python benchmarks/pq.py [--pairs 500] [--repeats 3]
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thingstuff.evaluation import fast
from thingstuff.evaluation.files import score_files
from thingstuff.evaluation.matching import joint_histogram, match_tables, truth_table
from thingstuff.evaluation.pq import average_classes, count_classes
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import Panoptic, Segment, encode_ids

HEIGHT, WIDTH = 480, 640
CATEGORIES = [{"id": i, "name": f"class {i}", "isthing": int(i <= 80)} for i in range(1, 134)]
LABELS = LabelSet.from_coco(CATEGORIES, "benchmark")


# --- pictures ---


def _waves(rng: np.random.Generator, cell: int, amplitude: float) -> np.ndarray:
    noise = rng.normal(0, amplitude, (HEIGHT // cell + 2, WIDTH // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def _cells(points: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest point of every pixel, and its squared distance, after the pixels were shifted."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + shift
    distances = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    return distances.argmin(-1) + 1, distances.min(-1)


def _panoptic(rng: np.random.Generator, index: np.ndarray, categories: np.ndarray) -> Panoptic:
    names = np.concatenate([[0], rng.choice(2**24 - 1, len(categories), replace=False) + 1]).astype(np.int32)
    segments = []
    for row, category in enumerate(categories.tolist(), start=1):
        rows, columns = np.nonzero(index == row)
        if rows.size:
            corner = (int(columns.min()), int(rows.min()))
            box = (*corner, int(columns.max()) - corner[0] + 1, int(rows.max()) - corner[1] + 1)
            segments.append(Segment(int(names[row]), category, "", category <= 80, None, rows.size, box))
    return Panoptic(names[index], tuple(segments))


def draw_pair(rng: np.random.Generator) -> tuple[Panoptic, Panoptic]:
    """A truth with rough edges and a prediction much like it."""
    n = int(rng.integers(9, 21))
    points = rng.random((n, 2)) * (HEIGHT, WIDTH)
    shift = np.stack([_waves(rng, 24, 9) + _waves(rng, 4, 6.5) for _ in range(2)])
    truth, distance = _cells(points, shift)
    truth[distance > (0.42 * HEIGHT) ** 2] = 0
    moved = np.vstack([points + rng.normal(0, 8, points.shape), rng.random((2, 2)) * (HEIGHT, WIDTH)])
    moved = moved[: n + int(rng.integers(-1, 3))]
    predicted, _ = _cells(moved, shift + np.stack([_waves(rng, 24, 4) for _ in range(2)]))
    categories = rng.integers(1, 134, n)
    guesses = np.where(
        rng.random(len(moved)) < 0.1, rng.integers(1, 134, len(moved)), np.resize(categories, len(moved))
    )
    return _panoptic(rng, truth, categories), _panoptic(rng, predicted, guesses)


def write_files(pairs: list[tuple[Panoptic, Panoptic]], root: Path) -> None:
    """COCO panoptic files: gt.json, gt/, pred.json, pred/."""
    for side, name in enumerate(("gt", "pred")):
        (root / name).mkdir()
        annotations = []
        for image_id, pair in enumerate(pairs):
            Image.fromarray(encode_ids(pair[side].ids)).save(root / name / f"{image_id:05d}.png")
            infos = [
                {"id": s.id, "category_id": s.category_id, "area": s.area, "bbox": list(s.bbox), "iscrowd": 0}
                for s in pair[side].segments
            ]
            annotation = {"image_id": image_id, "file_name": f"{image_id:05d}.png", "segments_info": infos}
            annotations.append(annotation)
        document = {"images": [], "annotations": annotations, "categories": CATEGORIES}
        (root / f"{name}.json").write_text(json.dumps(document))


# --- the plain route ---


def _plain_ids(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        pixels = np.array(image, dtype=np.uint32)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def _plain_picture(
    truth: dict[str, Any], predicted: dict[str, Any], root: Path, counts: dict[int, list[float]]
) -> None:
    """Match one picture by the rules of panoptic quality, straightforwardly."""
    true_ids = _plain_ids(root / "gt" / truth["file_name"])
    ids = _plain_ids(root / "pred" / predicted["file_name"])
    true_segments = {segment["id"]: segment for segment in truth["segments_info"]}
    segments = {segment["id"]: segment for segment in predicted["segments_info"]}
    areas = dict(zip(*(column.tolist() for column in np.unique(ids, return_counts=True)), strict=True))
    joint, shared_areas = np.unique(true_ids.astype(np.uint64) * 2**24 + ids.astype(np.uint64), return_counts=True)
    shared = {divmod(key, 2**24): n for key, n in zip(joint.tolist(), shared_areas.tolist(), strict=True)}
    found, used = set(), set()
    for (true_id, identity), area in shared.items():
        if true_id not in true_segments or identity not in segments:
            continue
        category = true_segments[true_id]["category_id"]
        if true_segments[true_id]["iscrowd"] or category != segments[identity]["category_id"]:
            continue
        union = areas[identity] + true_segments[true_id]["area"] - area - shared.get((0, identity), 0)
        if area / union > 0.5:
            counts[category][0] += 1
            counts[category][3] += area / union
            found.add(true_id)
            used.add(identity)
    for identity, segment in true_segments.items():
        if not segment["iscrowd"] and identity not in found:
            counts[segment["category_id"]][2] += 1
    for identity, segment in segments.items():
        if identity not in used and shared.get((0, identity), 0) / areas[identity] <= 0.5:
            counts[segment["category_id"]][1] += 1


def plain_route(root: Path) -> float:
    """Panoptic quality as the reference evaluator computes it (these pictures have no crowds)."""
    truth, predicted = (json.loads((root / f"{name}.json").read_text())["annotations"] for name in ("gt", "pred"))
    by_image = {annotation["image_id"]: annotation for annotation in predicted}
    counts: dict[int, list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])
    for annotation in truth:
        _plain_picture(annotation, by_image[annotation["image_id"]], root, counts)
    total = 0.0
    for category in CATEGORIES:
        tp, fp, fn, iou = counts.get(category["id"], (0, 0, 0, 0.0))
        total += iou / (tp + fp / 2 + fn / 2) if tp + fp + fn else 0
    return total / sum(any(numbers) for numbers in counts.values())


# --- routes from predictions in memory ---


def detectron2_route(pairs: list[tuple[Panoptic, Panoptic]], root: Path) -> float:
    """Encode every prediction as PNG in memory, write it to a folder, score from files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for image_id, (_, predicted) in enumerate(pairs):
            buffer = io.BytesIO()
            Image.fromarray(encode_ids(predicted.ids)).save(buffer, format="PNG")
            (folder / f"{image_id:05d}.png").write_bytes(buffer.getvalue())
        (folder / "gt").symlink_to(root / "gt")
        (folder / "gt.json").symlink_to(root / "gt.json")
        (folder / "pred.json").symlink_to(root / "pred.json")
        (folder / "pred").symlink_to(folder)
        return plain_route(folder)


def memory_route(pairs: list[tuple[Panoptic, Panoptic]], extra: fast.Fast | None) -> float:
    """Ours: nothing touches the disk."""
    matches = [
        match_tables(
            truth_table(truth.segments),
            {segment.id: segment.category_id for segment in predicted.segments},
            joint_histogram(truth.ids, predicted.ids, extra),
        )
        for truth, predicted in pairs
    ]
    categories: list[Category] = sorted(LABELS.categories, key=lambda category: category.id)
    return average_classes(count_classes(matches), categories).pq or 0.0


def torchmetrics_route(pairs: list[tuple[Panoptic, Panoptic]]) -> None:
    """The evaluator of torchmetrics; its rules differ, so that its number is not compared."""
    import torch
    from torchmetrics.detection import PanopticQuality

    torch.set_num_threads(1)
    kinds = [{c["id"] for c in CATEGORIES if c["isthing"] == isthing} for isthing in (1, 0)]
    metric = PanopticQuality(things=kinds[0], stuffs=kinds[1], allow_unknown_preds_category=True)
    for truth, predicted in pairs:
        maps = []
        for panoptic in (truth, predicted):
            names = np.array([0, *(segment.id for segment in panoptic.segments)])
            categories = np.array([999, *(segment.category_id for segment in panoptic.segments)])
            order = names.argsort()
            row = order[np.searchsorted(names[order], panoptic.ids)]
            maps.append(torch.from_numpy(np.stack([categories[row], row], -1)[None]))
        metric.update(maps[1], maps[0])
    metric.compute()


# --- measuring ---


def measure(route: Callable[[], Any], num_pairs: int, repeats: int) -> tuple[float, float, Any]:
    """Median milliseconds of processor time and of wall time for each pair, and the result."""
    processor, wall, result = [], [], None
    for _ in range(repeats):
        started, now = time.process_time(), time.perf_counter()
        result = route()
        processor.append(time.process_time() - started)
        wall.append(time.perf_counter() - now)
    return 1000 * statistics.median(processor) / num_pairs, 1000 * statistics.median(wall) / num_pairs, result


def routes(
    pairs: list[tuple[Panoptic, Panoptic]], root: Path, extra: fast.Fast | None
) -> Iterator[tuple[str, str, int, Callable[[], Any]]]:
    """Group, name and number of pairs of each route."""
    few = pairs[: max(1, len(pairs) // 100)]

    def files(use_fast: bool) -> float | None:
        return score_files(root / "gt.json", root / "pred.json", workers=1, use_fast=use_fast).panoptic.pq

    yield "files", "plain route: Pillow and numpy", len(pairs), lambda: plain_route(root)
    yield "files", "thingstuff", len(pairs), lambda: files(False)
    if extra is not None:
        yield "files", "thingstuff[fast]", len(pairs), lambda: files(True)
    yield (
        "memory",
        "Detectron2's route: PNG files and the plain route",
        len(pairs),
        lambda: detectron2_route(pairs, root),
    )
    yield "memory", "thingstuff", len(pairs), lambda: memory_route(pairs, None)
    if extra is not None:
        yield "memory", "thingstuff[fast]", len(pairs), lambda: memory_route(pairs, extra)
    with contextlib.suppress(ImportError):
        import torchmetrics  # noqa: F401 # pyright: ignore[reportMissingImports]

        yield "memory", f"torchmetrics ({len(few)} pairs)", len(few), lambda: torchmetrics_route(few)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(5)
    pairs = [draw_pair(rng) for _ in range(arguments.pairs)]
    extra = fast.load()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(pairs, root)
        sizes = [file.stat().st_size for file in root.glob("*/*.png")]
        print(
            f"{len(pairs)} pairs of {HEIGHT} x {WIDTH}, PNG files of {statistics.mean(sizes) / 1000:.1f} KB on average,"
        )
        print(f"Python {platform.python_version()}, numpy {np.__version__}, load {os.getloadavg()[0]:.1f}")
        if extra is not None:
            print(f"loading the extra took {extra.seconds:.2f} s of processor time")
        print("\n| predictions | evaluator | CPU ms per pair | wall ms per pair | times faster |")
        print("|---|---|---|---|---|")
        base: dict[str, float] = {}
        results = set()
        for group, name, number, route in routes(pairs, root, extra):
            processor, wall, result = measure(route, number, arguments.repeats)
            results.add(result)
            ratio = base.setdefault(group, processor) / processor
            print(f"| {group} | {name} | {processor:.3g} | {wall:.3g} | {ratio:.3g} |", flush=True)
    if len(results - {None}) != 1:
        raise SystemExit(f"the evaluators disagree: {results}")
    print(f"\nPQ {results.pop() or results.pop()} by all but torchmetrics")


if __name__ == "__main__":
    main()
