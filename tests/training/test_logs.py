import csv
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from thingstuff.errors import InputError
from thingstuff.training.logs import RunLog, read_rows


def write(folder: Path, steps: range, first_step: int = 1, **more: float) -> None:
    log = RunLog(folder, "steps", first_step)
    for step in steps:
        log.add(step, {"total": step / 3} | more)
    log.close()


def test_rows_and_events_say_the_same(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    with open(tmp_path / "steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [float(row["total"]) for row in rows] == pytest.approx([1 / 3, 2 / 3, 1], rel=1e-8)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "steps"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("steps/total")] == [
        (1, pytest.approx(1 / 3)),
        (2, pytest.approx(2 / 3)),
        (3, pytest.approx(1)),
    ]


def test_rows_of_steps_that_are_taken_again_are_cut_off(tmp_path: Path) -> None:
    write(tmp_path, range(1, 10))
    write(tmp_path, range(6, 8), first_step=6)
    assert [row["step"] for row in read_rows(tmp_path / "steps.csv")] == ["1", "2", "3", "4", "5", "6", "7"]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "steps"))
    events.Reload()
    assert [event.step for event in events.Scalars("steps/total")] == [1, 2, 3, 4, 5, 6, 7]


def test_rows_are_cut_off_even_if_none_is_added(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    write(tmp_path, range(0), first_step=3)
    assert [row["step"] for row in read_rows(tmp_path / "steps.csv")] == ["1", "2"]
    write(tmp_path, range(0), first_step=1)
    assert read_rows(tmp_path / "steps.csv") == []
    write(tmp_path, range(1, 3))
    assert [row["step"] for row in read_rows(tmp_path / "steps.csv")] == ["1", "2"]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_cut_short_by_a_crash_is_dropped(tmp_path: Path, cut: int) -> None:
    write(tmp_path, range(1, 4))
    path = tmp_path / "steps.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    kept = 3 - (cut > 0) - (cut > len("3,1\n"))
    assert [row["step"] for row in read_rows(path)] == ["1", "2", "3"][:kept]
    write(tmp_path, range(kept + 1, 5), first_step=kept + 1)
    assert [row["step"] for row in read_rows(path)] == ["1", "2", "3", "4"]


def test_a_file_cut_within_its_header_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text("step,to")
    write(tmp_path, range(1, 3))
    assert [row["step"] for row in read_rows(tmp_path / "steps.csv")] == ["1", "2"]


def test_a_new_column_is_empty_in_earlier_rows_and_a_missing_one_in_later(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "evaluations", 1)
    log.add(1, {"pq": 0.25})
    log.add(2, {"pq": 0.5, "miou": 0.75})
    log.add(3, {"miou": 1.0})
    log.close()
    expected = [
        {"step": "1", "pq": "0.25", "miou": ""},
        {"step": "2", "pq": "0.5", "miou": "0.75"},
        {"step": "3", "pq": "", "miou": "1"},
    ]
    assert read_rows(tmp_path / "evaluations.csv") == expected
    again = RunLog(tmp_path, "evaluations", 4)
    again.add(4, {"pq": 0.0, "miou": 0.0})
    again.close()
    assert read_rows(tmp_path / "evaluations.csv") == [*expected, {"step": "4", "pq": "0", "miou": "0"}]


def test_a_file_has_one_kind_of_line_end(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    assert b"\r" not in (tmp_path / "steps.csv").read_bytes()


def test_no_file_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.csv") == []


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").mkdir()
    with pytest.raises(InputError, match=r"steps\.csv: cannot be read \(Is a directory\); move it away"):
        RunLog(tmp_path, "steps", 1)


def test_a_file_in_place_of_the_event_folder(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(InputError, match=r"tensorboard/steps: cannot be written .*; choose another folder"):
        RunLog(tmp_path, "steps", 1)


def test_a_file_that_can_no_longer_be_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "steps", 1)
    log.add(1, {"total": 1.0})
    (tmp_path / "steps.csv").unlink()
    (tmp_path / "steps.csv").mkdir()
    with pytest.raises(InputError, match=r"steps\.csv: cannot be written \(Is a directory\)"):
        log.add(2, {"total": 1.0})
    log.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        RunLog(tmp_path, "steps", 1)
