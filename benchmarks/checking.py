"""How long `thingstuff data check` takes for a data set, on one core.

Run it on any data sets::

    python benchmarks/checking.py ROOT [ROOT ...]

Everything is done that the command does: JSON and PNG files, every pixel of every picture, likeness across splits. The
median of some rounds; the first one fills the system's cache of files and does not count.
"""

import argparse
import statistics
import time
from pathlib import Path

from thingstuff.data.checking.check import check_data


def main() -> None:
    """Check every data set and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| data set | pictures | megapixels | findings | CPU s | pictures/s | 5,000 such pictures, s |")
    print("|---|---|---|---|---|---|---|")
    for root in options.roots:
        checked = check_data(root, workers=1)  # fills the system's cache of files
        seconds = []
        for _ in range(options.rounds):
            start = time.process_time()
            check_data(root, workers=1)
            seconds.append(time.process_time() - start)
        taken, pictures = statistics.median(seconds), len(checked.pictures)
        pixels = sum(height * width for each in checked.pictures for height, width in [each.listed.size or (0, 0)])
        print(
            f"| {root.name} | {pictures} | {pixels / 1e6:.0f} | {len(checked.findings)} | {taken:.1f} "
            f"| {pictures / taken:.0f} | {5000 * taken / pictures:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
