"""What the documents say is true: commands and snippets run, files and names exist, values are those of the schema.

Commands run in this process, in an empty folder, one document after the other; long trainings are cut short by options
that ``COMMANDS`` adds. A command that is not in the table fails the test.
"""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from thingstuff import cli, demo
from thingstuff.data.coco import open_coco_panoptic
from thingstuff.data.scenes import SceneSource
from thingstuff.errors import InputError
from thingstuff.recipe import Recipe, field_names
from thingstuff.recipes import panet_r50_coco, upsnet_r50_coco
from thingstuff.structures import decode_ids, encode_ids

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "thingstuff"
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODEL_PAGES = sorted((ROOT / "docs" / "models").glob("*.md"))
PAGE_RECIPES = {"upsnet": upsnet_r50_coco(), "panet": panet_r50_coco()}
"""Recipes whose values a page states, where these are not the defaults."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TWO_STEPS = "--optim.batch-size 2 --schedule.steps 2 --schedule.warmup-steps 1 --schedule.evaluate-every 2"
FEW_SCENES = f"{TWO_STEPS} --source.train-count 16 --source.val-count 2"
RUN = ("recipe.json", "best.safetensors", "last.safetensors", "steps.csv", "evaluations.csv", "tensorboard", "state")
RESULTS = ("predictions.json", "predictions")


@dataclass(frozen=True)
class Expected:
    """How a command of a document is tested.

    Attributes:
        shorten: Options that are added.
        out: Folder it makes.
        files: What is in that folder afterwards.
        elsewhere: Why it does not run here, and what tests it instead.
    """

    shorten: str = ""
    out: str = ""
    files: tuple[str, ...] = ()
    elsewhere: str = ""


COMMANDS = {
    "make demo": Expected(elsewhere="test_makefile, test_demo.py"),
    "make test": Expected(elsewhere="test_makefile; it runs this very test"),
    "pip install thingstuff": Expected(elsewhere="needs the network; test_extras"),
    "pip install 'thingstuff[train]'": Expected(elsewhere="needs the network; test_extras"),
    "pip install 'thingstuff[fast]'": Expected(elsewhere="needs the network; test_extras"),
    "pip install 'thingstuff[export]'": Expected(elsewhere="needs the network; test_extras"),
    "thingstuff export tiny-scenes --to onnx --out scenes.onnx": Expected(elsewhere="takes long; test_export.py"),
    "thingstuff score truth.json predictions.json": Expected(),
    "thingstuff compare a.json b.json --gt truth.json": Expected(),
    "thingstuff convert detectron2 model_final.pkl panoptic_fpn.safetensors": Expected(elsewhere="test_convert.py"),
    "thingstuff demo": Expected("", "runs/demo", ("metrics.json", "report.html", "overlays", *RESULTS)),
    "thingstuff recipes": Expected(),
    "thingstuff recipes show tiny_scenes": Expected(),
    "thingstuff train finetune --data coins --out runs/finetuned": Expected(TWO_STEPS, "runs/finetuned", RUN),
    "thingstuff train tiny_scenes --out runs/scenes": Expected(FEW_SCENES, "runs/scenes", RUN),
    "thingstuff train tiny_scenes --out runs/scenes --resume": Expected(FEW_SCENES, "runs/scenes", RUN),
    "thingstuff train tiny_scenes --out runs/wide --model.neck.channels 96 --optim.learning-rate 0.001 "
    "--schedule.steps 500": Expected(FEW_SCENES, "runs/wide", RUN),
    "thingstuff train tiny_scenes_upsnet --out runs/upsnet --init runs/scenes/best.safetensors": Expected(
        FEW_SCENES, "runs/upsnet", RUN
    ),
    "thingstuff data convert EXPORT ROOT --labels labels.toml --overlap smaller-on-top --val-share 0.2": Expected(
        elsewhere="tests/commands/test_data.py, for every format"
    ),
    "thingstuff data check ROOT": Expected(),
    "thingstuff train finetune --data ROOT --out runs/mine": Expected(TWO_STEPS, "runs/mine", RUN),
    "thingstuff train mine.py:coins --data coins --init tiny-facades --out runs/coins": Expected(
        TWO_STEPS, "runs/coins", RUN
    ),
    "torchrun --nproc-per-node 2 -m thingstuff.cli train mine.py:coins --data coins --out runs/coins2": Expected(
        TWO_STEPS, "runs/coins2", RUN, elsewhere="test_several_processes, which is slow"
    ),
    "thingstuff evaluate runs/scenes/best.safetensors": Expected("", "runs/evaluate", ("metrics.json", *RESULTS)),
    "thingstuff evaluate runs/coins/best.safetensors --data coins --split val --out runs/coins/val": Expected(
        "", "runs/coins/val", ("metrics.json", *RESULTS)
    ),
    "thingstuff predict tiny-facades pictures/ --out labelled --overlay": Expected(
        "", "labelled", ("overlays/a.jpg", "overlays/b.jpg", *RESULTS)
    ),
    "thingstuff predict tiny-scenes scene.png --out labelled --overlay": Expected(
        "", "labelled", ("overlays/scene.jpg", *RESULTS)
    ),
    "thingstuff predict runs/coins/best.safetensors 'coins/images/val_*.jpg' --out runs/coins/seen --overlay": Expected(
        "", "runs/coins/seen", (*(f"overlays/val_{number:03d}.jpg" for number in range(4)), *RESULTS)
    ),
}


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return BLOCK.findall(document.read_text(encoding="utf-8"))


def commands(text: str) -> list[str]:
    """The commands of a block, without comments."""
    return [line for raw in text.splitlines() if (line := raw.partition(" #")[0].strip())]


def run_command(line: str) -> tuple[int, str]:
    """Exit code of a command line, and what it says in one line."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            code = cli.main(shlex.split(line)[1:])
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int)
    return code, " ".join(said.getvalue().split())


def check_command(line: str) -> None:
    assert line in COMMANDS, f"say in COMMANDS how this is tested: {line}"
    expected = COMMANDS[line]
    if expected.elsewhere:
        return
    code, said = run_command(f"{line} {expected.shorten}")
    assert code == 0, f"{line}: {said}"
    for name in expected.files:
        assert (Path(expected.out) / name).exists(), f"{line}: {name} is missing"


def run_python(text: str) -> None:
    """Run a snippet; one whose first line is the name of a file is saved under it as well."""
    if name := re.match(r"# (\w+\.py)\n", text):
        Path(name[1]).write_text(text)
    exec(compile(text, name[1] if name else "snippet", "exec"), {"__name__": "snippet"})


def check_console(text: str) -> None:
    """Every command of a session is refused as the block shows."""
    for part in text.split("$ ")[1:]:
        line, _, shown = part.partition("\n")
        code, said = run_command(line)
        assert code == 2, line
        assert said.startswith(" ".join(shown.split())), f"{line}: {said}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; the demo there has three scenes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "NUM_SCENES", 3)
    return tmp_path


def make_coins(folder: Path) -> Path:
    """The data set of the tutorial."""
    text = next(text for _, text in blocks(TUTORIAL) if text.startswith("# make_coins.py"))
    run_python(text)
    return folder / "coins"


# --- commands and snippets ---


def test_readme(folder: Path):
    source = SceneSource(7, 3)
    (folder / "pictures").mkdir()
    for index, name in enumerate(("house.jpg", "pictures/a.jpg", "pictures/b.png")):
        Image.fromarray(source.read(index).image).save(name)
    make_coins(folder).rename("ROOT")
    for name in ("truth", "predictions", "a", "b"):
        shutil.copy("ROOT/panoptic_val.json", f"{name}.json")
        shutil.copytree("ROOT/panoptic_val", name)
    for language, text in blocks(README):
        if language == "python":
            run_python(text)
            assert (folder / "house_panoptic.png").exists()
        else:
            for line in commands(text):
                check_command(line)


def test_tutorial(folder: Path):
    for language, text in blocks(TUTORIAL):
        if language == "python":
            run_python(text)
        elif language == "console":
            check_console(text)
        elif language == "":
            for line in commands(text):
                check_command(line)
    for name in ("scene_overlay.png", "coins/panoptic_train.json", "runs/coins/val/metrics.json"):
        assert (folder / name).exists()


def test_tutorial_names_what_a_run_leaves(folder: Path):
    rows = re.findall(r"^\| `([\w.]+/?)` \|", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.rstrip("/") for name in rows} >= {*RUN, "report.html", "metrics.json", "overlays"}


def test_pages_of_models(folder: Path):
    for page in MODEL_PAGES:
        for language, text in blocks(page):
            if language == "python":
                run_python(text)


@pytest.mark.slow
def test_several_processes(folder: Path):
    make_coins(folder)
    Path("mine.py").write_text(next(text for _, text in blocks(TUTORIAL) if text.startswith("# mine.py")))
    line = next(line for line in COMMANDS if line.startswith("torchrun"))
    words = shlex.split(f"{line} {COMMANDS[line].shorten}")
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert all((Path("runs/coins2") / name).exists() for name in RUN)
    assert len(Path("runs/coins2/steps.csv").read_text().splitlines()) == 3


# --- the messages that the tutorial explains ---


def _smaller_area(document: dict[str, Any], ids: np.ndarray) -> None:
    document["annotations"][0]["segments_info"][0]["area"] += 1


def _unlisted(document: dict[str, Any], ids: np.ndarray) -> None:
    ids[:3, :3] = 99


def _unpainted(document: dict[str, Any], ids: np.ndarray) -> None:
    document["annotations"][0]["segments_info"].append({"id": 77, "category_id": 3, "area": 1})


def _kind_missing(document: dict[str, Any], ids: np.ndarray) -> None:
    del document["categories"][0]["isthing"]


def _turned(document: dict[str, Any], ids: np.ndarray) -> None:
    document["images"][0] |= {"width": document["images"][0]["height"], "height": document["images"][0]["width"]}


def quoted_messages() -> list[str]:
    """The first column of the tutorial's table of messages."""
    table = TUTORIAL.read_text(encoding="utf-8").partition("message has")[2]
    return re.findall(r"^\| `([^`]+)` \| ", table, re.MULTILINE)


SPOILED = {
    "lacks": _kind_missing,
    "has area": _smaller_area,
    "pixels, but": _unlisted,
    "no pixel": _unpainted,
    "upright": _turned,
}


def test_other_messages_of_the_tutorial_stand_in_the_code():
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    others = [quote for quote in quoted_messages() if not any(key in quote for key in SPOILED)]
    assert len(others) == len(quoted_messages()) - len(SPOILED)
    for quote in others:
        assert quote in code


@pytest.mark.parametrize(("key", "spoil"), SPOILED.items())
def test_tutorial_quotes_messages(folder: Path, key: str, spoil: Callable[[dict[str, Any], np.ndarray], None]):
    (quote,) = [quote for quote in quoted_messages() if key in quote]
    json_path = make_coins(folder) / "panoptic_train.json"
    document = json.loads(json_path.read_text())
    png = folder / "coins" / "panoptic_train" / document["annotations"][0]["file_name"]
    ids = decode_ids(np.asarray(Image.open(png)))
    spoil(document, ids)
    Image.fromarray(encode_ids(ids)).save(png)
    json_path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        open_coco_panoptic(folder / "coins", "train").read(0)
    assert re.search(re.sub(r"\d+", r"\\d+", re.escape(quote)), str(caught.value))


# --- the first impression ---


def test_readme_opens_with_the_two_commands():
    text = README.read_text(encoding="utf-8")
    assert text.startswith("# thingstuff\n\n```\nmake demo\nmake test\n```\n")


def test_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets
    mentioned = re.findall(r"\bmake ([a-z]+)", "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS[:2]))
    assert set(mentioned) <= targets
    for target, last in (("demo", "thingstuff demo"), ("test", "-m pytest")):
        command = [shutil.which("make") or "make", "--dry-run", "--no-print-directory", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert last in done.stdout.splitlines()[-1]


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert lines == ["make test"]
    assert os.access(script, os.X_OK)


def test_extras():
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"thingstuff\[(\w+)\]", README.read_text(encoding="utf-8")):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)


# --- names ---


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return BLOCK.sub("", document.read_text(encoding="utf-8"))


def code_paths(document: Path) -> set[str]:
    """Everything written as code that looks like a Python file of ours, from diagrams too."""
    text = document.read_text(encoding="utf-8")
    drawn = "".join(block for language, block in blocks(document) if language == "text")
    own = {name[1] for _, block in blocks(document) if (name := re.match(r"# (\w+\.py)\n", block))}
    named = set(re.findall(r"`([\w/]+\.py)`", text)) | set(re.findall(r"[\w/]+\.py\b", drawn))
    return named - own


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_files_exist(document: Path):
    files = [f"/{path.relative_to(ROOT).as_posix()}" for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    for name in code_paths(document):
        assert any(path.endswith(f"/{name}") for path in files), f"{document.name}: {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{document.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{document.name}: {target}"


def table_rows(document: Path) -> list[list[str]]:
    """The cells of every row of every table."""
    lines = [line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("page", MODEL_PAGES, ids=lambda path: path.stem)
def test_functions_stand_where_a_page_says(page: Path):
    seen = 0
    for _, file, names, *_ in (row for row in table_rows(page) if len(row) >= 3):
        if not (path := re.fullmatch(r"`([\w/]+\.py)`", file)):
            continue
        text = (SOURCE / path[1]).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            seen += 1
            for part in name.split("."):
                assert re.search(rf"^\s*(def|class) {part}\b", text, re.MULTILINE), f"{page.name}: {path[1]}: {name}"
    assert seen > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_fields_exist_and_have_the_values_stated(document: Path):
    sections = "|".join(name for name in field_names() if "." not in name)
    text = document.read_text(encoding="utf-8")
    for option in re.findall(rf"--((?:{sections})\.[\w.-]+)", text):
        assert option.replace("-", "_") in field_names(), f"{document.name}: --{option}"
    for field, stated in re.findall(rf"`((?:{sections})\.[\w.]+)`(?: \(([^)]+)\))?", text):
        assert field in field_names(), f"{document.name}: {field}"
        if stated:
            value = field_value(field, PAGE_RECIPES.get(document.stem, Recipe(name="defaults")))
            assert same_values(stated.split(", "), value), f"{document.name}: {field} is not {stated}"


def same_values(stated: list[str], default: Any) -> bool:
    """Whether a value is what a page states; one value may stand for equal ones."""
    values = default if isinstance(default, tuple) else (default,)
    if isinstance(values[0], str):
        return stated == list(values)
    numbers = [float(text) for text in stated]
    return numbers == list(values) or numbers == sorted(set(values))


def field_value(field: str, recipe: Recipe) -> Any:
    """The value of a dotted field."""
    value: Any = recipe
    for part in field.split("."):
        assert isinstance(value, BaseModel)
        value = getattr(value, part)
    return value


def test_values_are_compared():
    assert same_values(["0.7"], 0.7)
    assert same_values(["1000"], (1000, 1000))
    assert same_values(["2000", "1000"], (2000, 1000))
    assert not same_values(["1000"], (2000, 1000))
    assert not same_values(["batch"], "group")
