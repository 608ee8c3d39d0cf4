"""Fingerprints of runs: what must stay the same when only the code's structure changes.

``python -m benchmarks.fingerprints`` prints a line for each of some short runs: the SHA-256 of its
final parameters, of an attack's rows or of an arena's rows, without what differs from run to run
(paths, seconds). Two checkouts on one machine print the same lines, or something else has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.paths import ROOT

# By name: the experiment, and what of it is smaller.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "quickstart": ("quickstart", ()),
    "colored-mnist-hgp": ("colored-mnist-hgp", ("run.rounds=50",)),
    "fed-buff": ("fed-buff", ()),
    "noprop-federated": ("noprop-federated", ("run.rounds=5",)),
    "noprop-mnist": (
        "noprop-mnist",
        ("run.rounds=1", "model.block=small", "data.train_examples=6000"),
    ),
}
ARENA = """
[run]
name = "fingerprint"
rounds = 1
[data]
dataset = "fashion-mnist"
clients = 3
examples_per_client = 1
[model]
name = "lenet"
[client]
optimizer = "sgd"
learning_rate = 0.05
batch_size = 64
epochs = 1
[strategy]
name = "FedAvg"
fraction_evaluate = 0.0
[capture]
nodes = "all"
rounds = [1]
[arena]
seeds = [0]
victims = 2
[arena.attacks.class-mean]
[arena.attacks.inverting-gradients]
steps = 20
[arena.defenses.none]
[arena.defenses.top-k-90.client]
mods = [{ name = "top-k", pruned = 0.9 }]
"""
VOLATILE = ("second", "path", "directory", "picture", "created", "worker", "key", "capture")


def atoll(*words: object) -> None:
    """Run a command of Atoll's, quietly.

    Raises
    ------
    RuntimeError
        If it fails; with what it said.
    """
    command = [sys.executable, "-m", "atoll", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def rows_hash(tables: Iterable[Path]) -> str:
    """Return the SHA-256 of the tables' rows, without their volatile columns, in any order."""
    rows = [
        json.dumps(
            {
                name: value
                for name, value in row.items()
                if not any(word in name for word in VOLATILE)
            },
            sort_keys=True,
            default=str,
        )
        for table in sorted(tables)
        for row in pq.read_table(table).to_pylist()
    ]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*RUNS, "attack", "arena"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)}; all if none")
    chosen = parser.parse_args().names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"{', '.join(unknown)}: expected names of {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, found in fingerprints(Path(folder), chosen):
            print(f"{name:28}{found}", flush=True)


def fingerprints(folder: Path, chosen: list[str]) -> Iterable[tuple[str, str]]:
    """Yield each chosen run's name and fingerprint, as it ends."""
    for name, (file, overrides) in RUNS.items():
        if not chosen or name in chosen:
            options = [word for override in overrides for word in ("--set", override)]
            atoll("run", f"experiments/{file}.toml", "--out", folder / name, *options)
            result = json.loads((folder / name / "result.json").read_text())
            yield name, result["parameters_sha256"]
    if not chosen or "attack" in chosen:
        run = folder / "captured"
        atoll("run", "experiments/capture.toml", "--out", run)
        for attack in ("idlg", "inverting-gradients"):
            out = folder / attack
            words = ("--victim", "1:3", "--set", "steps=30", "--lpips", "none", "--out", out)
            atoll("attack", run, "--attack", attack, *words)
            yield f"attack {attack}", rows_hash(out.rglob("*.parquet"))
    if not chosen or "arena" in chosen:
        file, out = folder / "arena.toml", folder / "arena"
        file.write_text(ARENA)
        atoll("arena", file, "--out", out)
        yield "arena", rows_hash([out / "results.parquet"])


if __name__ == "__main__":
    main()
