"""Verbs that score files of predictions, of this package or any other: score, compare."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from thingstuff.cli import SUCCESS
from thingstuff.commands.terminal import parse, say, warn
from thingstuff.evaluation.problems import CountedWarning
from thingstuff.evaluation.table import TableStyle
from thingstuff.evaluation.variants import Rules


@dataclass(frozen=True, kw_only=True)
class FilesOptions:
    """Options of every verb that compares files of predictions with the truth."""

    gt_folder: Path | None = None
    """PNG files of the truth. None: the JSON file's path without its suffix."""
    workers: int | None = None
    """Threads. None: one for each core."""
    lenient: bool = False
    """Recount or leave out what is wrong in the files, and warn, instead of stopping."""
    json: Path | None = None
    """Also write the numbers to this file, as fractions."""


# --- score ---


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(FilesOptions):
    """Options of `score`."""

    gt: Annotated[Positional[Path], arg(metavar="GT")]
    """JSON file of the truth, in COCO panoptic format."""
    pred: Annotated[Positional[Path], arg(metavar="PRED")]
    """JSON file of the predictions, in the same format."""
    pred_folder: Path | None = None
    """PNG files of the predictions. None: the JSON file's path without its suffix."""
    reference_cores: int = 1
    """Add in the order in which panopticapi adds on a machine with so many cores, to equal it to the last bit."""
    emulate_panopticapi: bool = False
    """Give panopticapi's answer, whatever it is."""
    rules: Rules = "panopticapi"
    """Whose rules decide what is found."""
    table: TableStyle = "plain"
    """Layout of the table."""
    miou: bool = False
    """Also mean IoU of the same files."""
    ap: bool = False
    """Also box and mask AP of the same files."""


def score(words: list[str]) -> int:
    """Score predictions of any tool."""
    options = parse(ScoreOptions, "score", "Score predictions of any tool in COCO panoptic format.", words)
    from thingstuff.data.coco import write_json
    from thingstuff.evaluation.files import score_files
    from thingstuff.progress import track

    result = score_files(
        options.gt,
        options.pred,
        gt_folder=options.gt_folder,
        pred_folder=options.pred_folder,
        workers=options.workers,
        reference_cores=options.reference_cores,
        lenient=options.lenient,
        emulate_panopticapi=options.emulate_panopticapi,
        rules=options.rules,
        with_miou=options.miou,
        with_ap=options.ap,
        progress=lambda items, total: track(items, "scoring", total),
    )
    _warn_counted(result.warnings)
    if result.loading_seconds > 2:
        warn(f"compiling took {result.loading_seconds:.0f} s of processor time; from now on it is there")
    say(result.table(options.table))
    if options.json is not None:
        write_json(options.json, result.to_json())
    return SUCCESS


# --- compare ---


@dataclass(frozen=True, kw_only=True)
class CompareOptions(FilesOptions):
    """Options of `compare`."""

    a: Annotated[Positional[Path], arg(metavar="A")]
    """JSON file of the first model's predictions."""
    b: Annotated[Positional[Path], arg(metavar="B")]
    """JSON file of the second model's predictions."""
    gt: Path
    """JSON file of the truth."""
    a_folder: Path | None = None
    """PNG files of the first. None: the JSON file's path without its suffix."""
    b_folder: Path | None = None
    """PNG files of the second. None: the JSON file's path without its suffix."""
    images: Path | None = None
    """Folder of the photographs, for the report."""
    report: Path | None = None
    """Also write a page with the pictures on which the models differ most."""
    resamples: int = 10_000
    """Data sets drawn for the confidence intervals."""


def compare(words: list[str]) -> int:
    """Compare the predictions of two models."""
    description = "Which of two models is better, by how much, how sure that is, and where each loses."
    options = parse(CompareOptions, "compare", description, words)
    from thingstuff.compare_report import ComparedFiles, write_comparison
    from thingstuff.data.coco import write_json
    from thingstuff.evaluation.compare import compare as compare_files
    from thingstuff.progress import track

    comparison = compare_files(
        options.a,
        options.b,
        options.gt,
        a_folder=options.a_folder,
        b_folder=options.b_folder,
        gt_folder=options.gt_folder,
        workers=options.workers,
        lenient=options.lenient,
        resamples=options.resamples,
        progress=lambda items, total: track(items, "comparing", total),
    )
    _warn_counted(comparison.warnings)
    say(comparison.table())
    if options.json is not None:
        write_json(options.json, comparison.to_json())
    if options.report is not None:
        folders = (options.a_folder, options.b_folder, options.gt_folder)
        files = ComparedFiles(options.a, options.b, options.gt, *folders, options.images)
        write_comparison(options.report, comparison, files)
        say(f"\nOpen {options.report} in a browser to see the pictures.")
    return SUCCESS


def _warn_counted(warnings: Iterable[CountedWarning]) -> None:
    for warning in warnings:
        warn(f"{warning.count} times {warning.kind}, first: {warning.example}")
