"""The first minute: a trained network, pictures it has never seen, its score and a page to look at."""

import platform
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from thingstuff import __version__, viz
from thingstuff.data.coco import write_json
from thingstuff.data.scenes import SceneSource
from thingstuff.evaluate import Evaluation, PictureEvaluation, evaluate_pictures
from thingstuff.evaluation.pq import ClassScore, panoptic_quality
from thingstuff.labels import LabelSet
from thingstuff.predict import Model, load
from thingstuff.predictions import PredictionWriter, make_folder
from thingstuff.progress import track
from thingstuff.report import ClassRow, Example, Headline, Picture, Report, write_report

NUM_SCENES = 64
SEED = 20260
"""Neither the training nor the validation pictures of `tiny_scenes` come from this seed."""
_EXAMPLES = 12
"""Pictures shown in the report: the best, the worst and some between."""


def run_demo(out: Path) -> Evaluation:
    """Predict unseen scenes, score them, and write pictures, predictions, `metrics.json` and `report.html`.

    Args:
        out: Folder for all of it.

    Raises:
        InputError: The folder cannot be written.
    """
    make_folder(out / "overlays")
    model = load("tiny-scenes")
    source = SceneSource(SEED, NUM_SCENES)
    writer = PredictionWriter(out, model.labels)
    pictures: list[PictureEvaluation] = []

    def keep(picture: PictureEvaluation) -> None:
        name = writer.write(picture.result, picture.sample.image_id, picture.sample.file_name)
        strip = viz.side_by_side(*zip(*_drawings(picture, model.labels), strict=True))
        strip.save(out / "overlays" / f"{name}.jpg", quality=90)
        pictures.append(picture)

    indices = track(range(NUM_SCENES), "predicting scenes", NUM_SCENES)
    # Average precision needs a package of the extra [train]; the demo does without where it is not installed.
    with_ap = find_spec("faster_coco_eval") is not None
    evaluation = evaluate_pictures(model, source, indices, with_ap=with_ap, on_picture=keep).evaluation()
    writer.close()
    write_json(out / "metrics.json", evaluation.to_json())
    write_report(out / "report.html", _report(model, evaluation, pictures))
    return evaluation


def _drawings(picture: PictureEvaluation, labels: LabelSet) -> list[tuple[Image.Image, str]]:
    """Picture, truth and prediction, each with its title."""
    image, panoptic = picture.sample.image, picture.result.panoptic
    assert panoptic is not None
    truth, prediction = (viz.draw_panoptic(image, map_, labels) for map_ in (picture.truth, panoptic))
    enlarged = Image.fromarray(image).resize(truth.size, Image.Resampling.LANCZOS)
    return [(enlarged, "picture"), (truth, "truth"), (prediction, "prediction")]


def _report(model: Model, evaluation: Evaluation, pictures: list[PictureEvaluation]) -> Report:
    score = evaluation.panoptic
    assert score is not None
    headlines = [Headline("PQ", score.pq), Headline("SQ", score.sq), Headline("RQ", score.rq)]
    groups = (("PQ things", score.things), ("PQ stuff", score.stuff))
    headlines += [Headline(name, group.pq) for name, group in groups if group is not None]
    if evaluation.mask is not None:
        headlines.append(Headline("mask AP", evaluation.mask.ap))
    ranked = sorted(pictures, key=lambda picture: _quality(picture, model.labels), reverse=True)
    shown = [ranked[round(place * (len(ranked) - 1) / (_EXAMPLES - 1))] for place in range(_EXAMPLES)]
    return Report(
        title="thingstuff sees 64 scenes it has never seen",
        summary=(
            "A small panoptic network, trained on procedural pictures alone, labelled every pixel of 64 new ones: "
            "which stuff it is (sky, water, road), or which single thing it belongs to (this car, that person). "
            "Below are its scores and twelve of the pictures, from its best to its worst."
        ),
        headlines=headlines,
        classes=[_class_row(row, model.labels) for row in score.per_class.values()],
        examples=[_example(picture, model.labels) for picture in shown],
        facts=_facts(model, evaluation),
    )


def _quality(picture: PictureEvaluation, labels: LabelSet) -> float:
    assert picture.match is not None
    return panoptic_quality([picture.match], labels).pq or 0.0


def _example(picture: PictureEvaluation, labels: LabelSet) -> Example:
    drawings = [Picture(drawing.convert("RGB"), title) for drawing, title in _drawings(picture, labels)]
    return Example(Path(picture.sample.file_name).stem, f"PQ {100 * _quality(picture, labels):.1f}", drawings)


def _class_row(score: ClassScore, labels: LabelSet) -> ClassRow:
    color = labels.categories[labels.index[score.category_id]].color
    seen = score.tp + score.fp + score.fn > 0
    quality = (score.pq, score.sq, score.rq) if seen else (None, None, None)
    return ClassRow(score.name, score.isthing, color, *quality, score.tp, score.fp, score.fn)


def _facts(model: Model, evaluation: Evaluation) -> list[tuple[str, str]]:
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return [
        ("recipe", model.recipe.name),
        ("backbone", model.recipe.model.backbone.name),
        ("parameters", f"{parameters / 1e6:.2f} million"),
        ("time for a picture", f"{1000 * evaluation.seconds:.0f} ms on this processor"),
        ("pictures", f"{evaluation.pictures} scenes of 192 x 128 pixels"),
        ("thingstuff", __version__),
        ("Python", platform.python_version()),
    ]
