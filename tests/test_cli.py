"""The command line as a person meets it: exit codes, single lines, what is kept when something fails."""

import io
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from shell import Finished, Shell
from thingstuff import __version__, cli, commands, demo, runtimes
from thingstuff.checkpoint import Checkpoint, save_checkpoint
from thingstuff.commands import networks
from thingstuff.data.coco import panoptic_annotation, panoptic_truth, save_panoptic_png, write_json
from thingstuff.data.scenes import SCENES, SceneSource
from thingstuff.recipe import Recipe
from thingstuff.recipe_model import TTAConfig
from thingstuff.recipes import RECIPES

HEAVY = ("torch", "pydantic", "tyro", "numpy", "PIL")
SHORT = "--optim.batch-size 2 --schedule.steps 2 --schedule.warmup-steps 1 --source.train-count 4 --source.val-count 1"


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a very small network with random weights."""
    path = tmp_path_factory.mktemp("cli") / "tiny.safetensors"
    save_checkpoint(path, tiny_checkpoint)
    return path


def assert_refused(finished: Finished, *parts: str) -> None:
    """Wrong input, and nothing else said than the one line."""
    finished.assert_refused(*parts)
    assert finished.out == ""


# --- start ---


def test_signals_are_handled_as_before_afterwards(shell: Shell) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert shell("recipes").code == 0
    assert signal.getsignal(signal.SIGTERM) == before


def loaded_modules(code: str) -> list[str]:
    """The heavy packages that a fresh Python has imported after running ``code``."""
    script = f"import sys\n{code}\nsys.stderr.write('loaded: ' + ' '.join(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stderr.rpartition("loaded:")[2].split()


def test_the_probe_sees_what_is_imported():
    assert loaded_modules("import numpy") == ["numpy"]


def test_importing_the_package_imports_nothing_heavy():
    assert loaded_modules("import thingstuff; thingstuff.__version__; dir(thingstuff)") == []


@pytest.mark.parametrize("word", ["--help", "--version", "trian"])
def test_what_needs_no_verb_imports_nothing_heavy(word: str):
    assert loaded_modules(f"from thingstuff.cli import main; main([{word!r}])") == []


def test_help_takes_less_than_three_tenths_of_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "thingstuff.cli", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(f"  {verb} " in done.stdout for verb in cli.VERBS)
    # Processor time, so that other work on the machine does not count.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.3


def test_every_verb_has_a_command_that_explains_itself(shell: Shell):
    for verb in cli.VERBS:
        assert callable(getattr(commands, verb))
        done = shell(f"{verb} tiny_scenes --help" if verb == "train" else f"{verb} --help")
        assert done.code == 0
        assert f"usage: thingstuff {verb}" in done.out


def test_version_and_bare_call(shell: Shell):
    assert shell("--version") == Finished(0, f"thingstuff {__version__}\n", "")
    bare = shell("")
    assert bare.code == 2
    assert bare.out == shell("--help").out


# --- what goes wrong ---


def test_unknown_verb_names_the_nearest(shell: Shell):
    assert_refused(shell("evalute x"), "'evalute'", "did you mean evaluate?")
    assert_refused(shell("xyzzy"), "'xyzzy'", ", ".join(cli.VERBS))


def test_wrong_input_shows_its_origin_only_on_request(shell: Shell):
    assert_refused(shell("recipes show tiny_scene"), "'tiny_scene'", "did you mean tiny_scenes?")
    shown = shell("recipes show tiny_scene --debug")
    assert shown.code == 2
    assert "Traceback" in shown.err
    assert "find_recipe" in shown.err


def test_an_unexpected_failure_is_one_line_and_exit_code_1(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    def fail(words: list[str]) -> int:
        raise RuntimeError("one\n  two")

    monkeypatch.setattr(commands, "recipes", fail)
    failed = shell("recipes")
    assert failed == Finished(1, "", "thingstuff: RuntimeError: one two (run again with --debug to see where)\n")
    assert "Traceback" in shell("--debug recipes").err


def test_ctrl_c_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "recipes", interrupt)
    stopped = shell("recipes")
    assert stopped.code == 1
    assert stopped.err == "thingstuff: interrupted; what was finished before is kept\n"


def test_an_interrupted_training_says_how_to_go_on(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("thingstuff.training.loop.train", interrupt)
    stopped = shell("train tiny_scenes --out o")
    assert stopped == Finished(1, "", "thingstuff: interrupted; there is nothing yet to go on from\n")
    Path("o/state").mkdir(parents=True)
    Path("o/state/training.pt").touch()
    assert shell("train tiny_scenes --out o").err == "thingstuff: interrupted; go on with --resume --out o\n"


def test_an_interrupted_export_says_that_nothing_was_written(
    shell: Shell, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("thingstuff.export._write", interrupt)
    stopped = shell(f"export {checkpoint} --to torch --out a.pt2")
    assert stopped.code == 1
    assert stopped.err.splitlines() == [
        "writing the graph, which may take minutes",
        "thingstuff: interrupted; a.pt2 was not written",
    ]
    assert not any(Path.cwd().iterdir())


def test_a_wrong_option_names_the_nearest(shell: Shell, checkpoint: Path):
    done = shell(f"predict {checkpoint} . --out o --devise cpu")
    assert done.code == 2
    assert "--devise" in done.err
    assert "--device" in done.err
    assert "Traceback" not in done.err
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("train", ["recipe", "thingstuff recipes"]),
        ("train --out x", ["recipe", "thingstuff recipes"]),
        ("train tiny_scene", ["'tiny_scene'", "did you mean tiny_scenes?", ", ".join(RECIPES)]),
        ("train nothing.json", ["nothing.json", "no such file"]),
        ("train nothing.py:recipe", ["nothing.py", "no such file"]),
        ("train tiny_facades --out x", ["tiny_facades", "--data"]),
        ("train tiny_facades --data nowhere --out x", ["nowhere", "no such folder", "panoptic_train.json"]),
        ("train tiny_scenes --out x --batch-size 0", ["--batch-size", "0"]),
        ("train tiny_scenes --out x --batch-size 7 --accumulate 2", ["7", "multiple of 2", "--batch-size"]),
        ("train tiny_scenes --out x --model.backbone.name resnet999", ["backbone", "'resnet999'"]),
        ("train tiny_scenes --out x --init nothing.safetensors", ["nothing.safetensors", "no such checkpoint"]),
    ],
)
def test_train_refuses(shell: Shell, line: str, parts: list[str]):
    assert_refused(shell(line), *parts)
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--optim.learning-rte 0.1", ["--optim.learning-rte", "--optim.learning-rate"]),
        ("--optim.kind adam", ["adam", "sgd", "adamw"]),
        ("--optim.momentum 2", ["momentum", "less than 1"]),
        ("--optim.learning-rate fast", ["optim.learning_rate", "fast"]),
        ("--schedule.decay steps --schedule.milestones 5000", ["milestones", "5000", "1100"]),
    ],
)
def test_train_refuses_wrong_fields(shell: Shell, options: str, parts: list[str]):
    done = shell(f"train tiny_scenes --out x {options}")
    assert done.code == 2
    assert "Traceback" not in done.err
    for part in parts:
        assert part in " ".join(done.err.split())
    assert not Path("x").exists()


# --- predict ---


def make_pictures(folder: Path, *names: str) -> None:
    """Pictures of noise, 64 x 96."""
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def predicted(out: Path) -> dict[str, Any]:
    """`predictions.json`, after a look at the PNG files that it names."""
    document = json.loads((out / "predictions.json").read_text())
    for annotation in document["annotations"]:
        with Image.open(out / "predictions" / annotation["file_name"]) as png:
            assert png.size == (96, 64)
    assert len(list((out / "predictions").iterdir())) == len(document["annotations"])
    return document


def test_predict_stops_at_a_damaged_picture_and_keeps_what_was_done(shell: Shell, checkpoint: Path):
    make_pictures(Path("in"), "a.jpg", "b.jpg", "c.jpg")
    Path("in/b.jpg").write_bytes(Path("in/b.jpg").read_bytes()[:500])
    stopped = shell(f"predict {checkpoint} in --out o --overlay")
    assert stopped.code == 1
    assert stopped.out == "1 of 3 pictures labelled: o\n"
    assert stopped.err.count("\n") == 1
    assert "in/b.jpg" in stopped.err
    assert [image["file_name"] for image in predicted(Path("o"))["images"]] == ["a.jpg"]
    assert [path.name for path in Path("o/overlays").iterdir()] == ["a.jpg"]

    skipped = shell(f"predict {checkpoint} in --out p --skip-damaged")
    assert skipped.code == 0
    assert skipped.out == "2 of 3 pictures labelled: p\n"
    assert "in/b.jpg" in skipped.err
    assert [image["file_name"] for image in predicted(Path("p"))["images"]] == ["a.jpg", "c.jpg"]


def test_predict_takes_files_patterns_and_what_is_below_folders_once(shell: Shell, checkpoint: Path):
    make_pictures(Path("in"), "a.png", "b.png", "c.jpg", "deep/er/d.webp")
    assert shell(f"predict {checkpoint} 'in/*.png' --out o").out == "2 of 2 pictures labelled: o\n"
    done = shell(f"predict {checkpoint} in/b.png in 'in/**/*.webp' --out p --json")
    assert [image["file_name"] for image in json.loads(done.out)["pictures"]] == [
        "b.png", "a.png", "c.jpg", "deep/er/d.webp",
    ]  # fmt: skip


def test_predict_keeps_pictures_of_the_same_name_apart(shell: Shell, checkpoint: Path):
    make_pictures(Path("in"), "day/street.jpg", "night/street.jpg", "night/street.png", "night_street.jpg")
    assert shell(f"predict {checkpoint} in --out o --overlay").code == 0
    document = predicted(Path("o"))
    names = [annotation["file_name"] for annotation in document["annotations"]]
    assert names == ["day_street.png", "night_street.png", "night_street_2.png", "night_street_3.png"]
    assert len(list(Path("o/overlays").iterdir())) == 4
    for key, rows in (("id", document["images"]), ("image_id", document["annotations"])):
        assert len({row[key] for row in rows}) == 4, f"{key} is not unique"


def test_predict_says_what_is_wrong_with_its_input(shell: Shell, checkpoint: Path):
    make_pictures(Path("in"), "a.jpg")
    Path("none").mkdir()
    Path("notes.txt").write_text("not a picture")
    assert_refused(shell(f"predict {checkpoint} none --out o"), "none", "no pictures in this folder", ".jpg")
    assert_refused(shell(f"predict {checkpoint} in/z.jpg --out o"), "in/z.jpg", "no such picture")
    assert_refused(shell(f"predict {checkpoint} 'in/*.bmp' --out o"), "in/*.bmp", "no such picture")
    assert_refused(shell("predict nothing in --out o"), "nothing", "no such checkpoint", "tiny-scenes")
    assert_refused(shell("predict in in --out o"), "in", "folder", ".safetensors")
    assert_refused(shell("predict in/a.jpg in --out o"), "in/a.jpg", "not a checkpoint; name a .safetensors file")
    assert_refused(shell(f"predict {checkpoint} in --out in/a.jpg"), "in/a.jpg", "--out")
    assert_refused(shell(f"predict {checkpoint} in --out o --device gpu"), "'gpu'", "'cpu'")
    assert_refused(shell(f"predict {checkpoint} in --out o --short-side -1"), "short_side", "-1")
    named = shell(f"predict {checkpoint} notes.txt --out o")
    assert named.code == 1
    assert "notes.txt" in named.err


def test_predict_and_evaluate_in_bfloat16(shell: Shell, checkpoint: Path):
    make_pictures(Path("in"), "a.png")
    assert shell(f"predict {checkpoint} in --out maps --runtime torch --precision bfloat16").code == 0
    assert len(predicted(Path("maps"))["images"]) == 1
    assert_refused(
        shell(f"predict {checkpoint} in --out maps --runtime onnx --precision bfloat16"),
        "precision 'bfloat16' is not for runtime 'onnx'",
    )
    finished = shell(f"evaluate {checkpoint} --precision bfloat16 --json")
    assert finished.code == 0
    assert json.loads(finished.out).keys() >= {"pq"}


def test_runtimes_have_the_same_names_everywhere():
    assert get_args(networks.RuntimeName) == get_args(runtimes.Runtime)


def test_predict_without_a_picture_is_wrong_input(shell: Shell, checkpoint: Path):
    done = shell(f"predict {checkpoint} --out o")
    assert done.code == 2
    assert "Error" not in done.err


# --- evaluate ---


def write_scenes(root: Path, count: int = 2, **changes: dict[str, Any]) -> Path:
    """A data set of scenes; ``changes`` alter categories by name."""
    source = SceneSource(5, count, (64, 96))
    images, annotations = [], []
    for folder in ("images", "panoptic_val"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        sample = source.read(index)
        truth = panoptic_truth(sample, SCENES)
        images.append({"id": index, "file_name": f"{index}.png", "height": 64, "width": 96})
        Image.fromarray(sample.image).save(root / "images" / f"{index}.png")
        save_panoptic_png(truth.ids, root / "panoptic_val" / f"{index}.png")
        annotations.append(panoptic_annotation(truth, index, f"{index}.png"))
    categories = [category | changes.get(category["name"], {}) for category in SCENES.to_coco()]
    write_json(root / "panoptic_val.json", {"images": images, "annotations": annotations, "categories": categories})
    return root


def test_evaluate_writes_numbers_and_predictions(shell: Shell, checkpoint: Path):
    write_scenes(Path("scenes"))
    done = shell(f"evaluate {checkpoint} --data scenes --out o --json")
    assert done.code == 0
    numbers = json.loads(done.out)
    assert numbers == json.loads(Path("o/metrics.json").read_text())
    assert numbers["pictures"] == 2
    assert {"pq", "sq", "rq", "things", "stuff", "per_class", "box_ap", "mask_ap", "semantic"} <= numbers.keys()
    assert [row["name"] for row in numbers["per_class"]] == [c["name"] for c in SCENES.to_coco()]
    predicted(Path("o"))
    table = shell(f"evaluate {checkpoint} --data scenes --out p").out
    assert all(category.name in table for category in SCENES.categories)


def test_evaluate_leaves_damaged_pictures_out_on_request(shell: Shell, checkpoint: Path):
    write_scenes(Path("scenes"))
    Path("scenes/images/0.png").write_bytes(b"cut")
    done = shell(f"evaluate {checkpoint} --data scenes --out o --skip-damaged --json")
    numbers = json.loads(done.out)
    assert done.code == 0
    assert numbers["pictures"] == 1
    assert len(numbers["skipped"]) == 1
    assert "0.png" in numbers["skipped"][0]
    stopped = shell(f"evaluate {checkpoint} --data scenes --out p")
    assert stopped.code != 0
    assert "0.png" in stopped.err


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"isthing": 0}, ["category 7", "'car' (thing)", "'car' (stuff)"]),
        ({"name": "lorry"}, ["category 7", "'car'", "'lorry'"]),
        ({"id": 70}, ["category 7", "absent"]),
    ],
)
def test_evaluate_refuses_other_classes(shell: Shell, checkpoint: Path, change: dict[str, Any], parts: list[str]):
    document = json.loads((write_scenes(Path("scenes"), car=change) / "panoptic_val.json").read_text())
    for annotation in document["annotations"]:
        annotation["segments_info"] = [row for row in annotation["segments_info"] if row["category_id"] != 7]
    Path("scenes/panoptic_val.json").write_text(json.dumps(document))
    assert_refused(shell(f"evaluate {checkpoint} --data scenes --out o"), "scenes", *parts)


def test_evaluate_says_what_is_missing(shell: Shell, checkpoint: Path):
    write_scenes(Path("scenes"))
    assert_refused(shell(f"evaluate {checkpoint} --data nowhere"), "nowhere", "no such folder")
    refused = shell(f"evaluate {checkpoint} --data scenes --split test")
    assert_refused(refused, "panoptic_test.json", "splits here: val")
    assert_refused(shell(f"evaluate {checkpoint} --data scenes/panoptic_val.json"), "this is a file")


# --- several looks, and networks that lack a part ---


@pytest.mark.parametrize("options", ["", " --tta"])
def test_looking_several_times(shell: Shell, checkpoint: Path, options: str):
    write_scenes(Path("scenes"))
    done = shell(f"evaluate {checkpoint} --data scenes --out o --json{options}")
    assert done.code == 0
    tta = json.loads(done.out)["tta"]
    assert tta == (TTAConfig().model_dump(mode="json") if options else None)
    assert shell(f"predict {checkpoint} scenes/images --out p{options}").code == 0
    for out in ("o", "p"):
        assert len(predicted(Path(out))["annotations"]) == 2


def test_looking_several_times_is_more_than_once(shell: Shell, checkpoint: Path):
    make_pictures(Path("in"), "a.png")
    for out, options in (("o", ""), ("p", "--tta")):
        assert shell(f"predict {checkpoint} in --out {out} {options}").code == 0
    once, several = (Path(out, "predictions/a.png").read_bytes() for out in ("o", "p"))
    assert once != several


INSTANCE = "model__semantic=None, model__fusion=None"
DETECTION = f"{INSTANCE}, model__region__mask_head=None"
SEMANTIC = "model__region=None, model__fusion=None"


@pytest.mark.parametrize(
    ("parts", "numbers", "written"),
    [
        (INSTANCE, {"box_ap", "mask_ap"}, "instances.json"),
        (DETECTION, {"box_ap"}, "instances.json"),
        (SEMANTIC, {"semantic"}, "semantic"),
    ],
)
@pytest.mark.parametrize("options", ["", "--tta"])
def test_networks_that_make_no_panoptic_map(
    shell: Shell, parts: str, numbers: set[str], written: str, options: str, tiny_recipe: Recipe
):
    make_pictures(Path("in"), "7.png", "b.png")
    Path("tiny.json").write_text(tiny_recipe.model_dump_json())
    Path("mine.py").write_text(
        "from pathlib import Path\nfrom thingstuff.recipe import derive, read_recipe\n"
        f"def part():\n    return derive(read_recipe(Path('tiny.json').read_text(), ''), {parts})\n"
    )
    assert shell(f"train mine.py:part --out run {SHORT} --source.size 64 96").code == 0
    done = shell(f"evaluate run/best.safetensors --out o --json {options}")
    assert done.code == 0
    values = json.loads(done.out)
    assert {"pq", "things", "per_class", "box_ap", "mask_ap", "semantic"} & values.keys() == numbers
    assert (values["tta"] is None) == (not options)
    table = shell(f"evaluate run/best.safetensors --out o {options}").out
    assert ("AP" in table) == ("box_ap" in numbers)
    assert "PQ" not in table

    done = shell(f"predict run/best.safetensors in --out p --overlay --json {options}")
    assert json.loads(done.out)["written"] == [f"p/{written}"]
    assert {path.name for path in Path("p").iterdir()} == {"overlays", written}
    assert {path.name for path in Path("p/overlays").iterdir()} == {"7.jpg", "b.jpg"}
    if written == "instances.json":
        rows = json.loads(Path("p/instances.json").read_text())
        assert {row["image_id"] for row in rows} <= {7, "b"}
        assert all(("segmentation" in row) == ("mask_ap" in numbers) for row in rows)


# --- train, demo, recipes ---


def test_train_from_ones_own_file_writes_a_run_that_nothing_overwrites(shell: Shell):
    Path("mine.py").write_text(
        "from thingstuff import derive\nfrom thingstuff.recipes import tiny_scenes\n"
        "def small():\n    return derive(tiny_scenes(), name='small', model__backbone__name='test_resnet')\n"
    )
    done = shell(f"train mine.py:small --out run {SHORT} --source.size 64 96")
    assert done.code == 0
    assert done.out == "best checkpoint: run/best.safetensors\n"
    names = {path.name for path in Path("run").iterdir()}
    assert names == {
        "recipe.json", "best.safetensors", "last.safetensors", "steps.csv", "evaluations.csv", "tensorboard", "state",
    }  # fmt: skip
    recipe = json.loads(Path("run/recipe.json").read_text())
    assert (recipe["name"], recipe["schedule"]["steps"]) == ("small", 2)

    assert_refused(shell("train run/recipe.json --out run"), "run", "--resume", "--out")
    again = shell("train run/recipe.json --out run --resume")
    assert again.code == 0
    assert_refused(shell("train run/recipe.json --out run --resume --seed 1"), "run", "seed", "0", "1")
    assert_refused(shell("train mine.py:large --out other"), "mine.py", "'large'")


def test_demo_as_json(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "NUM_SCENES", 2)
    done = shell("demo --json --out o")
    assert done.code == 0
    assert json.loads(done.out) == json.loads(Path("o/metrics.json").read_text())


def test_recipes(shell: Shell):
    names = ["finetune", *RECIPES]
    assert list(json.loads(shell("recipes --json").out)) == names
    listed = shell("recipes").out.splitlines()
    assert [line.split()[0] for line in listed] == names
    assert all(len(line.split()) > 3 for line in listed)
    for name, make in RECIPES.items():
        assert json.loads(shell(f"recipes show {name}").out) == json.loads(make().model_dump_json())
    assert_refused(shell("recipes list"), "recipes list", "recipes show NAME")
    Path("mine.py").write_text("from thingstuff.recipes import tiny_facades as coins")
    assert shell("recipes show mine.py:coins").out == shell("recipes show tiny_facades").out
    Path("recipe.json").write_text(shell("recipes show tiny_nuclei").out)
    assert json.loads(shell("recipes show recipe.json").out)["name"] == "tiny_nuclei"
    assert_refused(shell("recipes show none.py:coins"), "none.py: there is no such file", "give FILE.py:FUNCTION")


def test_letters_that_the_output_cannot_show_do_not_end_the_work(monkeypatch: pytest.MonkeyPatch):
    """As on a Windows pipe, where class names may be Chinese and the page of codes is Western."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding="cp1252", errors="strict"))
    assert cli.main(["天空"]) == 2
    sys.stderr.flush()
    assert rb"\u5929\u7a7a" in written.getvalue()
