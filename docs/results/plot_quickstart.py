"""Draw docs/results/quickstart.svg from the quickstart's run directory.

atoll run experiments/quickstart.toml --out runs/quickstart
python docs/results/plot_quickstart.py runs/quickstart
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import pyarrow.parquet as pq


def main(directory: Path) -> None:
    """Draw the accuracy over the rounds and the classes of each client."""
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "atoll", "svg.fonttype": "none"})
    rounds = pq.read_table(directory / "rounds.parquet")
    partition = json.loads((directory / "partition.json").read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    number = rounds.column("round").to_pylist()
    left.plot(number, rounds.column("server_accuracy").to_pylist(), color="#0b7285")
    left.set(xlabel="round", ylabel="test accuracy", title="100 clients, 20 a round", ylim=(0, 1))
    left.grid(alpha=0.3)
    counts = [list(row) for row in zip(*partition["histogram"], strict=True)]
    shown = right.imshow(counts, aspect="auto", cmap="GnBu", interpolation="nearest")
    right.set(xlabel="client", ylabel="digit", title="examples of each digit, per client")
    figure.colorbar(shown)
    figure.savefig(Path(__file__).with_name("quickstart.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
