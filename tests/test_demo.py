"""The demo as `make demo` runs it: all 64 scenes with the bundled network."""

import json
from html import escape
from pathlib import Path

import pytest
from PIL import Image

from thingstuff.data.scenes import SCENES
from thingstuff.demo import NUM_SCENES, SEED, run_demo
from thingstuff.evaluate import Evaluation
from thingstuff.recipe import ScenesConfig
from thingstuff.recipes import tiny_scenes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    out = tmp_path_factory.mktemp("demo") / "made" / "by the demo"
    return out, run_demo(out)


def test_panoptic_quality(run: tuple[Path, Evaluation]):
    panoptic = run[1].panoptic
    assert panoptic is not None
    assert panoptic.pq is not None
    assert panoptic.pq >= 0.75


def test_metrics(run: tuple[Path, Evaluation]):
    out, evaluation = run
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(evaluation.to_json()))
    assert metrics["pictures"] == NUM_SCENES == 64
    assert metrics["skipped"] == []
    for group in (metrics, metrics["things"], metrics["stuff"]):
        assert all(0 < group[name] <= 1 for name in ("pq", "sq", "rq"))
    assert (metrics["n"], metrics["things"]["n"], metrics["stuff"]["n"]) == (12, 6, 6)
    assert {row["name"] for row in metrics["per_class"]} == {category.name for category in SCENES.categories}
    for row in metrics["per_class"]:
        assert row["tp"] + row["fn"] > 0, f"no {row['name']} in any scene"
        assert row["pq"] == pytest.approx(row["sq"] * row["rq"])
    assert {"box_ap", "mask_ap", "semantic"} <= metrics.keys()


def test_pictures_and_predictions(run: tuple[Path, Evaluation]):
    out = run[0]
    document = json.loads((out / "predictions.json").read_text())
    assert len(document["images"]) == len(document["annotations"]) == NUM_SCENES
    overlays = sorted((out / "overlays").iterdir())
    assert len(overlays) == len(list((out / "predictions").iterdir())) == NUM_SCENES
    with Image.open(overlays[0]) as strip:
        # Picture, truth and prediction, each at least as large as the scene.
        assert strip.width >= 3 * 192
        assert strip.height >= 128


def test_report_names_every_class(run: tuple[Path, Evaluation]):
    page = (run[0] / "report.html").read_text(encoding="utf-8")
    for category in SCENES.categories:
        assert f">{escape(category.name)}</th>" in page
    assert page.count("<img") >= 12
    # One file that needs nothing else.
    assert 'src="http' not in page
    assert "src='http" not in page


def test_scenes_are_unseen():
    source = tiny_scenes().source
    assert isinstance(source, ScenesConfig)
    assert SEED not in (source.train_seed, source.val_seed)
