"""What a run writes down: CSV files for people and scripts, and TensorBoard's event files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from thingstuff.checkpoint import write_synced
from thingstuff.errors import InputError


class RunLog:
    """Rows of numbers by step, in `<name>.csv` and in TensorBoard's files.

    After a crash, rows of steps that will be taken again are cut off, so that every step stands there once.

    Args:
        folder: Of the run.
        name: Of the CSV file, and the first part of the names in TensorBoard.
        first_step: Rows of this step and later ones are cut off.

    Raises:
        InputError: The files cannot be written.
    """

    def __init__(self, folder: Path, name: str, first_step: int) -> None:
        # TensorBoard takes a second to import, so only a run does.
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = folder / f"{name}.csv"
        self.name = name
        rows = [row for row in read_rows(self.path) if int(row["step"]) < first_step]
        self.columns = list(rows[0]) if rows else []
        if self.path.exists():
            self._rewrite(rows)
        try:
            self.writer = SummaryWriter(str(folder / "tensorboard" / name), purge_step=first_step)
        except OSError as error:
            raise _unwritable(folder / "tensorboard" / name, error) from error

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; a column that earlier rows lack is empty there.

        Raises:
            InputError: The files cannot be written.
        """
        row = {"step": str(step)} | {name: f"{value:.9g}" for name, value in values.items()}
        if set(row) <= set(self.columns):
            try:
                with open(self.path, "a", newline="") as file:
                    _writer(file, self.columns).writerow(row)
            except OSError as error:
                raise _unwritable(self.path, error) from error
        else:
            earlier = read_rows(self.path)
            self.columns = list(dict.fromkeys([*self.columns, *row]))
            self._rewrite([*earlier, row])
        try:
            for name, value in values.items():
                self.writer.add_scalar(f"{self.name}/{name}", value, step)
        except OSError as error:
            raise _unwritable(self.path.parent / "tensorboard" / self.name, error) from error

    def close(self) -> None:
        """Finish TensorBoard's files."""
        self.writer.close()

    def _rewrite(self, rows: Sequence[Mapping[str, str]]) -> None:
        text = io.StringIO()
        writer = _writer(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_synced(self.path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that may end in the middle of one.

    Raises:
        InputError: The file cannot be read.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            lines = file.read().splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); move it away, or name another folder") from error
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = csv.DictReader(lines)
    return [row for row in rows if row["step"].isdigit()]


def _writer(file: io.TextIOBase, columns: Sequence[str]) -> "csv.DictWriter[str]":
    return csv.DictWriter(file, columns, restval="", lineterminator="\n")


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder")
