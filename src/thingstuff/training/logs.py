"""What a run writes down: CSV files for people and scripts, and TensorBoard's event files."""

import csv
from collections.abc import Mapping
from pathlib import Path

from thingstuff.checkpoint import write_synced


class RunLog:
    """Rows of numbers by step, in `<name>.csv` and in TensorBoard's files.

    After a crash, rows of steps that will be taken again are cut off, so that every step stands there once.

    Args:
        folder: Of the run.
        name: Of the CSV file, and the first part of the names in TensorBoard.
        first_step: Rows of this step and later ones are cut off.
    """

    def __init__(self, folder: Path, name: str, first_step: int) -> None:
        # TensorBoard takes a second to import, so only a run does.
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = folder / f"{name}.csv"
        self.name = name
        self.rows = [row for row in read_rows(self.path) if int(row["step"]) < first_step]
        if self.path.exists():
            self._rewrite()
        self.writer = SummaryWriter(str(folder / "tensorboard" / name), purge_step=first_step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; a column that earlier rows lack is empty there."""
        row = {"step": str(step)} | {name: f"{value:.9g}" for name, value in values.items()}
        known = set(self.rows[0]) if self.rows else set()
        self.rows.append(row)
        if set(row) <= known:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, list(self.rows[0])).writerow(row)
        else:
            self._rewrite()
        for name, value in values.items():
            self.writer.add_scalar(f"{self.name}/{name}", value, step)

    def close(self) -> None:
        """Finish TensorBoard's files."""
        self.writer.close()

    def _rewrite(self) -> None:
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        self.rows = [{column: row.get(column, "") for column in columns} for row in self.rows]
        lines = [",".join(columns), *(",".join(row.values()) for row in self.rows)]
        write_synced(self.path, ("\n".join(lines) + "\n").encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that may end in the middle of one."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = csv.DictReader(lines)
    return [row for row in rows if row["step"].isdigit()]
