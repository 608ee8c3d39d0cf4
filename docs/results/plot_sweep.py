"""Draw a sweep's accuracy on one domain over the rounds: a line a method, a band over its seeds.

atoll sweep experiments/colored-mnist.toml --out runs/colored-mnist
python docs/results/plot_sweep.py runs/colored-mnist e0.9 docs/results/colored-mnist.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq


def main(sweep: Path, domain: str, picture: Path) -> None:
    """Draw the curves of a sweep with one setting a method and one set of held-out domains."""
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "atoll", "svg.fonttype": "none"})
    curves = pq.read_table(sweep / "curves.parquet")
    curves = curves.filter(pc.equal(curves["domain"], domain))
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    for method in dict.fromkeys(curves["method"].to_pylist()):
        own = curves.filter(pc.equal(curves["method"], method)).sort_by("round")
        rounds = np.array(sorted(set(own["round"].to_pylist())))
        values = np.array(own["accuracy"].to_pylist()).reshape(len(rounds), -1)
        [line] = axes.plot(rounds, values.mean(1), label=method, linewidth=1.3)
        axes.fill_between(rounds, values.min(1), values.max(1), color=line.get_color(), alpha=0.15)
    axes.set(xlabel="round", ylabel=f"accuracy on {domain}", ylim=(0, 0.8))
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize=8)
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
