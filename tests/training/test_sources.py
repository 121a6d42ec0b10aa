import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.data.coco import open_coco_panoptic
from thingstuff.data.loader import CachedSource, Pasting
from thingstuff.data.scenes import SceneSource
from thingstuff.data.transforms import Augmentation, ColorJitter
from thingstuff.errors import InputError
from thingstuff.recipe import AugmentationConfig, ColorConfig, FilesConfig, Recipe, derive
from thingstuff.recipe_model import PictureConfig
from thingstuff.recipes import tiny_facades
from thingstuff.structures import encode_ids
from thingstuff.training import sources

CATEGORIES = [
    {"id": 1, "name": "ground", "isthing": 0},
    {"id": 2, "name": "ball", "isthing": 1},
    {"id": 3, "name": "boat", "isthing": 1},
]


def write_split(root: Path, split: str, things: list[list[int]], categories: list[dict[str, Any]] = CATEGORIES) -> None:
    """Pictures of 8x10 with a row of 2x2 squares, one for each category id listed."""
    folder = root / f"panoptic_{split}"
    folder.mkdir(parents=True)
    (root / "images").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, categories_here in enumerate(things):
        name = f"{split}{number}"
        ids = np.ones((8, 10), dtype=np.int32)
        segments = [{"id": 1, "category_id": 1, "iscrowd": 0}]
        for place, category in enumerate(categories_here):
            ids[2:4, 3 * place : 3 * place + 2] = place + 2
            segments.append({"id": place + 2, "category_id": category, "iscrowd": 0})
        Image.fromarray(np.zeros((8, 10, 3), dtype=np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(encode_ids(ids)).save(folder / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": 10, "height": 8})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"panoptic_{split}.json").write_text(json.dumps(document))


@pytest.fixture
def files_recipe(tiny_recipe: Recipe) -> Recipe:
    return derive(tiny_recipe, name="mine", source=FilesConfig())


def test_scenes_need_no_data(tiny_recipe: Recipe) -> None:
    train, val = sources.open_sources(tiny_recipe, None)
    assert (len(train), len(val)) == (7, 2)
    assert train.picture_sizes()[0] == (64, 96)
    assert not np.array_equal(train.read(0).image, val.read(0).image)


def test_files_are_read_from_the_root(tmp_path: Path, files_recipe: Recipe) -> None:
    write_split(tmp_path, "train", [[2], [3]])
    write_split(tmp_path, "val", [[2]])
    train, val = sources.open_sources(files_recipe, tmp_path)
    assert (len(train), len(val)) == (2, 1)
    assert train.read(1).image.shape == (8, 10, 3)


def test_files_need_a_root(files_recipe: Recipe) -> None:
    with pytest.raises(InputError, match="recipe mine needs a data set; name its root with --data"):
        sources.open_sources(files_recipe, None)


def test_both_splits_must_have_the_same_classes(tmp_path: Path, files_recipe: Recipe) -> None:
    write_split(tmp_path, "train", [[2]])
    write_split(tmp_path, "val", [[2]], [*CATEGORIES[:2], {"id": 3, "name": "ship", "isthing": 1}])
    with pytest.raises(
        InputError, match=r"panoptic_val\.json: category 3 is 'ship' \(thing\), and 'boat' .* in panoptic_train\.json"
    ):
        sources.open_sources(files_recipe, tmp_path)


def test_pictures_without_a_single_segment_are_not_learned_from(tmp_path: Path, files_recipe: Recipe) -> None:
    for split in ("train", "val"):
        write_split(tmp_path, split, [[2], [3]])
    path = tmp_path / "panoptic_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"panoptic_train\.json: not one segment in 2 pictures"):
        sources.open_sources(files_recipe, tmp_path)


def test_small_data_sets_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(tmp_path, "train", [[2], [3]])
    source = open_coco_panoptic(tmp_path, "train")
    assert isinstance(sources.with_cache(source, 4), CachedSource)
    # Two pictures of 80 pixels and 7 bytes, in each of four processes.
    monkeypatch.setattr(sources, "_CACHE_BYTES", 4 * 2 * 80 * 7 - 1)
    assert sources.with_cache(source, 4) is source
    assert isinstance(sources.with_cache(source, 3), CachedSource)
    scenes = SceneSource(1, 2)
    assert sources.with_cache(scenes, 0) is scenes


def test_pictures_with_rare_classes_are_repeated(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [[2], [2], [2], [2, 3]])
    source = open_coco_panoptic(tmp_path, "train")
    assert sources.repeats(source, 0.0) is None
    # Boats are in a quarter of the pictures: sqrt(0.36 / 0.25) = 1.2
    assert sources.repeats(source, 0.36) == pytest.approx([1.0, 1.0, 1.0, 1.2])
    assert sources.repeats(SceneSource(1, 2), 0.36) is None


def test_pictures_that_objects_can_be_pasted_from(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [[2], [], [3, 2], [2]])
    source = open_coco_panoptic(tmp_path, "train")
    assert sources.find_pasting(source, AugmentationConfig(), 100) is None
    config = AugmentationConfig(paste=0.5, paste_until=0.3)
    assert sources.find_pasting(source, config, 100) == Pasting(0.5, {0: [0, 2, 3], 1: [2]}, steps=30)
    with pytest.raises(InputError, match=r"augmentation\.paste is 0\.5, but objects are pasted from files alone"):
        sources.find_pasting(SceneSource(1, 2), config, 100)


def test_the_recipe_decides_what_happens_to_training_pictures() -> None:
    config = tiny_facades().augmentation
    assert sources.training_augmentation(config) == Augmentation(
        (320,), 640, 0.5, 0.0, (0.7, 1.7), (320, 320), ColorJitter(0.3, 0.3, 0.3, 0.04)
    )
    plain = sources.training_augmentation(AugmentationConfig(vertical_flip=0.25))
    assert plain.color is None
    assert plain.vertical_flip == 0.25
    hue = AugmentationConfig(color=ColorConfig(hue=1.0))
    assert sources.training_augmentation(hue).color == ColorJitter(hue=1.0)


def test_pictures_to_judge_on_are_only_resized() -> None:
    sizing = sources.test_sizing(PictureConfig(short_side=600, max_side=1000))
    assert sizing == Augmentation((600,), 1000)
    assert (sizing.flip, sizing.crop, sizing.color, sizing.scale_jitter) == (0.0, None, None, (1.0, 1.0))
