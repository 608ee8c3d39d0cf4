"""Difference of two runs, round by round: of one federation laid out in two ways, say.

``python -m benchmarks.accuracy.compare_runs runs/colored-mnist-hgp runs/colored-mnist-50-clients``,
after ``atoll run`` of both experiments, is the table in docs/results/alignment.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROUNDS = (1, 10, 50, 100, 190, 200, 300, 400, 500)


def rounds_of(run: Path) -> dict[int, dict[str, Any]]:
    rows = pq.read_table(run / "rounds.parquet").to_pylist()
    return {int(row["round"]): row for row in rows if row["round"] > 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs=2)
    given = parser.parse_args()
    first, second = (rounds_of(run) for run in given.runs)
    last = min(max(first), max(second))
    print("| round | train loss | apart, relative |")
    print("|---|---|---|")
    for number in (n for n in (*ROUNDS, last) if n <= last):
        one, other = first[number]["train_loss"], second[number]["train_loss"]
        print(f"| {number} | {one:.6f} | {abs(one - other) / abs(one):.0e} |")
    print("\n| after the last round | first | second |")
    print("|---|---|---|")
    for key, value in first[last].items():
        if key.startswith("server_accuracy") and value is not None:
            print(f"| {key} | {value:.4f} | {second[last][key]:.4f} |")


if __name__ == "__main__":
    main()
