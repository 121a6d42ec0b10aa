"""`train finetune` from the command line: what it chooses, says, and leaves behind, on data of every kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from production import as_in_production
from shell import Shell
from thingstuff import published
from thingstuff.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from thingstuff.commands import finetuning
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import Score
from thingstuff.recipe import FilesConfig, Recipe, derive
from thingstuff.recipe_model import FusionConfig
from thingstuff.recipes.finetune import Machine
from thingstuff.structures import encode_ids
from thingstuff.thresholds import Rated

SMALL = (
    "--optim.batch-size 2 --schedule.steps 2 --model.backbone.name test_resnet --model.backbone.norm group "
    "--model.neck.channels 16 --model.semantic.channels 8 --model.region.box-head.width 16 "
    "--model.region.mask-head.channels 8 --model.region.mask-head.num-convs 1 --optim.precision float32 --init None"
)
GROUND = {"id": 1, "name": "ground", "isthing": 0}
WATER = {"id": 2, "name": "water", "isthing": 0}
BALL = {"id": 3, "name": "ball", "isthing": 1}


def write(root: Path, shape: tuple[int, ...], dtype: str, suffix: str, categories: list[dict[str, Any]]) -> Path:
    """Four pictures of noise, two to learn from: stuff side by side, or void, and two squares if there are things."""
    (root / "images").mkdir(parents=True)
    stuff = [category["id"] for category in categories if not category["isthing"]]
    for split in ("train", "val"):
        (root / f"panoptic_{split}").mkdir()
        images, annotations = [], []
        for number in range(2):
            picture = np.random.default_rng(number).integers(0, 200, shape).astype(dtype)
            name = f"{split}{number}{suffix}"
            if suffix == ".npy":
                np.save(root / "images" / name, picture)
            elif picture.ndim == 2 or picture.shape[2] == 3:
                Image.fromarray(picture).save(root / "images" / name)
            else:
                pages = [Image.fromarray(picture[:, :, channel]) for channel in range(picture.shape[2])]
                pages[0].save(root / "images" / name, save_all=True, append_images=pages[1:])
            height, width = shape[:2]
            ids, segments = np.zeros((height, width), dtype=np.int32), []
            for place, identity in enumerate(stuff):
                ids[:, place * width // len(stuff) :] = place + 1
                segments.append({"id": place + 1, "category_id": identity, "iscrowd": 0})
            for place in range(2 if any(category["isthing"] for category in categories) else 0):
                ids[8:24, 4 + 24 * place : 24 + 24 * place] = 8 + place
                segments.append({"id": 8 + place, "category_id": BALL["id"], "iscrowd": 0})
            for segment in segments:
                segment["area"] = int(np.count_nonzero(ids == segment["id"]))
            Image.fromarray(encode_ids(ids)).save(root / f"panoptic_{split}" / f"{number}.png")
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"panoptic_{split}.json").write_text(json.dumps(document))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """RGB pictures with one stuff and one thing class."""
    return write(tmp_path / "data", (40, 56, 3), "uint8", ".png", [GROUND, BALL])


KIND = ("shape", "dtype", "suffix", "categories")
OTHER_CHANNELS = [
    pytest.param((40, 56, 4), "uint16", ".npy", [GROUND, WATER], id="4 channels, no things"),
    pytest.param((40, 56), "uint8", ".npy", [BALL], id="1 channel, one class, no stuff"),
    pytest.param((40, 56, 12), "uint8", ".tif", [GROUND, BALL], id="12 pages"),
    pytest.param((40, 56), "uint16", ".tif", [GROUND], id="grey 16 bits, one class, no things"),
]
RGB = [
    pytest.param((40, 56, 3), "uint16", ".npy", [GROUND, BALL], id="3 channels 16 bits"),
    pytest.param((40, 56, 3), "uint8", ".png", [BALL], id="no stuff"),
]


@pytest.mark.parametrize(KIND, [*OTHER_CHANNELS, *RGB])
def test_every_kind_of_data_is_learned_judged_predicted_and_drawn(
    shell: Shell, tmp_path: Path, shape: tuple[int, ...], dtype: str, suffix: str, categories: list[dict[str, Any]]
) -> None:
    write(tmp_path / "data", shape, dtype, suffix, categories)
    done = shell(f"train finetune --data data --out run {SMALL}")
    assert done.code == 0, done.err
    checkpoint = load_checkpoint("run/best.safetensors")
    picture = checkpoint.recipe.picture
    assert picture.channels == (shape[2] if len(shape) == 3 else 1)
    assert picture.pixels == ("rgb" if suffix == ".png" else dtype)
    assert len(checkpoint.labels) == len(categories)
    if suffix != ".png":
        assert all(90 < mean < 110 for mean in picture.mean)  # noise from 0 to 199
        assert all(55 < deviation < 60 for deviation in picture.std)
        assert checkpoint.recipe.augmentation.color is None
    done = shell("evaluate run/best.safetensors --data data --out judged --json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["pictures"] == 2
    assert "data: layout thingstuff: panoptic_val.json" in done.err
    assert shell("evaluate run/best.safetensors --data data --out judged").code == 0
    done = shell("predict run/best.safetensors data/images --out seen --overlay")
    assert done.code == 0, done.err
    assert len(list(Path("seen/overlays").iterdir())) == 4
    assert len(list(Path("seen/predictions").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize(KIND, OTHER_CHANNELS)
def test_other_channels_are_exported_and_predicted_with_the_file(
    shell: Shell, shape: tuple[int, ...], dtype: str, suffix: str, categories: list[dict[str, Any]]
) -> None:
    pytest.importorskip("onnxruntime")
    write(Path("data"), shape, dtype, suffix, categories)
    assert shell(f"train finetune --data data --out run {SMALL}").code == 0
    with as_in_production():
        done = shell("export run/best.safetensors --to onnx --out run.onnx --pictures data/images/val*")
    assert done.code == 0, done.err
    for number in range(2):
        assert f"val{number}{suffix}: " in done.out
    done = shell("predict run.onnx data/images --out seen")
    assert done.code == 0, done.err
    assert len(list(Path("seen/predictions").iterdir())) == 4


def test_it_says_what_it_chose_and_what_was_given(shell: Shell, data: Path) -> None:
    done = shell(f"train finetune --data {data} --out run {SMALL} --picture.short-side 32")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.err.splitlines() if line.startswith("  ")}
    assert "2 pictures, 1 thing class and 1 stuff class; chosen for it:" in done.err
    assert "as given" in lines["begin"]
    assert lines["picture.short_side"].split()[1:] == ["32", "as", "given"]
    assert lines["schedule.steps"].split()[1:] == ["2", "as", "given"]
    assert "up to 2 objects in a picture" in lines["model.region.num_detections"]
    assert "layout thingstuff: panoptic_train.json" in done.err
    recipe = json.loads(Path("run/recipe.json").read_text())
    assert (recipe["name"], recipe["schedule"]["steps"], recipe["augmentation"]["short_sides"]) == ("finetune", 2, [32])


def test_a_run_goes_on_with_its_choices_on_another_machine(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell(f"train finetune --data {data} --out run {SMALL}").code == 0
    before = Path("run/recipe.json").read_bytes()

    def refuse() -> Machine:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(finetuning, "this_machine", refuse)
    done = shell(f"train finetune --data {data} --out run --resume")
    assert done.code == 0, done.err
    assert Path("run/recipe.json").read_bytes() == before
    done = shell(f"train finetune --data {data} --out run --resume --schedule.steps 5")
    assert done.code == 2
    assert "started with schedule.steps 2, not 5" in done.err


def test_thresholds_of_maps_are_chosen_after_the_last_step(
    shell: Shell, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(checkpoint: Checkpoint, source: Any, fusions: list[FusionConfig], **options: Any) -> list[Rated]:
        assert len(source) == 2
        assert {fusion.overlap_threshold for fusion in fusions} == {0.4}
        return [
            Rated(fusion, Score(0.9 if fusion.score_threshold == 0.3 else 0.1, 1.0, 1.0, 2, None, None, {}))
            for fusion in fusions
        ]

    command = f"train finetune --data {data} --out run {SMALL} --model.fusion.overlap-threshold 0.4"
    done = shell(command)
    assert done.code == 0, done.err
    assert "thresholds stay as they are: no other of 24 settings is better on the validation pictures" in done.err
    monkeypatch.setattr(finetuning, "rate", rate)
    for _ in range(2):
        done = shell(f"{command} --resume")
        assert done.code == 0, done.err
        assert "chosen on the validation pictures: score_threshold 0.3 (0.5); PQ 0.900 (0.100)" in done.err
        checkpoint = load_checkpoint("run/best.safetensors")
        fusion = checkpoint.recipe.model.fusion
        assert fusion is not None
        assert (fusion.score_threshold, fusion.overlap_threshold) == (0.3, 0.4)
        assert checkpoint.metrics["step"] == 2
        assert checkpoint.metrics["pictures"] == 2
    assert json.loads(Path("run/recipe.json").read_text())["model"]["fusion"]["score_threshold"] == 0.5


def test_weights_of_ones_own_bring_their_network(
    shell: Shell, data: Path, tiny_checkpoint: Checkpoint, tiny_recipe: Recipe
) -> None:
    own = derive(tiny_recipe, source=FilesConfig(), optim__learning_rate=0.004)
    save_checkpoint(Path("own.safetensors"), Checkpoint(tiny_checkpoint.weights, own, tiny_checkpoint.labels))
    done = shell(f"train finetune --data {data} --out run --init own.safetensors --schedule.steps 1")
    assert done.code == 0, done.err
    recipe = load_checkpoint("run/best.safetensors").recipe
    assert recipe.model.backbone == tiny_recipe.model.backbone
    assert recipe.optim.learning_rate == 0.004  # for two pictures, as many as before
    assert "own.safetensors" in done.err
    assert "tensors taken" in done.err


def test_pictures_to_judge_on_are_needed(shell: Shell, data: Path) -> None:
    (data / "panoptic_val.json").rename(data / "panoptic_test.json")
    (data / "panoptic_val").rename(data / "panoptic_test")
    done = shell(f"train finetune --data {data} --out run")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    for part in ("panoptic_val.json", "splits here: test, train", "--source.val-split", "data convert", "--val-share"):
        assert part in done.err
    assert shell(f"train finetune --data {data} --out run {SMALL} --source.val-split test").code == 0


def test_without_data_there_is_help_and_a_clear_word(shell: Shell) -> None:
    done = shell("train finetune")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "made from your data" in done.err
    done = shell("train finetune --help")
    assert done.code == 0
    assert "come from the data set" in " ".join(done.out.replace("│", " ").split())
    done = shell("recipes show finetune")
    assert done.code == 0
    assert "finetune is made from data" in done.out
    done = shell("train finetun --data x")
    assert "did you mean finetune?" in done.err
    done = shell("train finetune --data nowhere --out run")
    assert "nowhere: there is no such folder" in done.err
    done = shell("train finetune --data nowhere --schedule.stps 5")
    assert "did you mean --schedule.steps?" in done.err


# --- what to begin with ---


def beginning(data: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Path | None]:
    monkeypatch.setattr(finetuning, "this_machine", lambda: machine)
    recipe, run = finetuning.made_for_data(finetuning.Run(Path("run"), data), {}, False)
    return recipe, run.init


def test_on_a_processor_it_begins_with_the_network_of_the_package(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, init = beginning(data, Machine(2), monkeypatch)
    assert str(init) in ("tiny-facades", "tiny-scenes")
    assert recipe.model.backbone == load_checkpoint(str(init)).recipe.model.backbone
    assert recipe.picture.pixels == "rgb"


def test_on_a_gpu_it_begins_with_published_weights_where_there_are_any(
    data: Path,
    tmp_path: Path,
    tiny_checkpoint: Checkpoint,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    large = derive(tiny_recipe, source=FilesConfig(), augmentation__crop=None)
    path = tmp_path / "published.safetensors"
    save_checkpoint(path, Checkpoint(tiny_checkpoint.weights, large, tiny_checkpoint.labels))
    monkeypatch.setattr(finetuning, "published_checkpoint", lambda name: path)
    gpu = Machine(8, 2**34)
    recipe, init = beginning(data, gpu, monkeypatch)
    assert init == path
    assert recipe.model.backbone == tiny_recipe.model.backbone
    assert recipe.augmentation.crop is None

    def unreachable(name: str) -> Path:
        raise InputError(f"{name}: cannot be fetched")

    monkeypatch.setattr(finetuning, "published_checkpoint", unreachable)
    _, init = beginning(data, gpu, monkeypatch)
    assert str(init) in ("tiny-facades", "tiny-scenes")
    assert f"{next(iter(published.PUBLISHED))[:20]}" in capsys.readouterr().err
