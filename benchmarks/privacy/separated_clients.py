"""LOKI and the imprint block on sums of clients under SecAgg+.

``python -m benchmarks.privacy.separated_clients --out FILE`` runs one round of federations of
digits, each with the whole protocol (keys, shares, masks, rounding) and all clients in this
process, attacks the sum, adds each trial to FILE as it ends, and prints the table. Arms:

- LOKI: kernels of each client's own.
- one set of kernels: the same block, of which all clients get the first set.
- imprint: Robbing the Fed's block, with as many bins; "times clients": as many weights as LOKI's.

The imprint block's strength is the best of a list on another seed: rounding hides its gradients
where it is weak, and the network does not learn where it is strong.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from flwr.app import ConfigRecord

from atoll.attacks import ATTACKS, attack_victims, find_captures, observe_victims, read_victims
from atoll.attacks.victims import references_of
from atoll.clients import load_dataset
from atoll.flower import assume_identity
from atoll.platform.config.experiment import Experiment
from atoll.platform.grid.message_capture import SumRecorder
from atoll.platform.runs.federation import prepare
from atoll.strategies import SecAggPlus
from benchmarks.accuracy.in_process import LocalClients
from benchmarks.accuracy.recorded import date_and_commit, run_missing

# Deviation of the brightness of the test split's digits, which no client has; its mean is 0.00.
SPREAD = 0.09
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
NAMES = ("arm", "clients", "batch", "steps", "bins", "seed")
ARMS = ("LOKI", "one set of kernels", "imprint", "imprint, times clients")
# The seed on which the strength is chosen.
OTHER_SEED = 1000
# An image is taken for read above this PSNR, in dB.
READ = 30.0


def experiment(
    arm: str, clients: int, batch: int, steps: int, bins: int, seed: int, strength: float
) -> Experiment:
    """Return the experiment of one trial."""
    is_loki = not arm.startswith("imprint")
    bins = bins * clients if arm == "imprint, times clients" else bins
    own = {"name": "loki", "sets": clients} if is_loki else {"name": "imprint"}
    strategy = "LOKI" if arm == "LOKI" else "FedAvg"
    return Experiment.from_dict(
        {
            "run": {"rounds": 1, "seed": seed},
            "data": {"dataset": "digits", "clients": clients, "examples_per_client": batch},
            "model": {
                "base": "lenet-relu",
                "bins": bins,
                "spread": SPREAD,
                "strength": strength,
                **own,
            },
            "client": {
                "batch_size": batch // steps,
                "learning_rate": 1.0,
                "mods": ["secure-aggregation"],
            },
            "strategy": {
                "name": "SecAggPlus",
                "strategy": {"name": strategy, "fraction_evaluate": 0.0},
                "max_weight": float(batch),
            },
            "capture": {"nodes": "all", "rounds": [1]},
        }
    )


def psnr_of(trial: Experiment) -> list[float]:
    """Return the PSNR of each image that is read off one round's sum, in dB."""
    federation = prepare(trial)
    strategy, grid = federation.strategy, LocalClients(federation)
    assert isinstance(strategy, SecAggPlus)
    assert trial.capture is not None
    with tempfile.TemporaryDirectory() as folder:
        recorder = SumRecorder(Path(folder), trial.capture, federation.spec, federation.dataset)
        strategy.on_sum = recorder.record_sum
        start, config = federation.initial_arrays, ConfigRecord({"server-round": 1})
        strategy.configure_train(1, start, config, grid)  # type: ignore[arg-type]
        victims = read_victims(find_captures(Path(folder)))
    name = trial.model.name
    attack = ATTACKS.find(name, "attack")()
    candidates = references_of(load_dataset("digits")).candidates
    observations = observe_victims(victims, attack)
    [found] = attack_victims(name, attack, victims, observations, candidates=candidates)
    return [row["psnr"] for row in found.rows]


def figures_of(
    arm: str, clients: int, batch: int, steps: int, bins: int, seed: int
) -> dict[str, Any]:
    """Return the share of images that are read, and the strength that was chosen."""
    key = (arm, clients, batch, steps, bins)
    strength = chosen_strength(*key) if arm.startswith("imprint") else 1.0
    psnr = psnr_of(experiment(*key, seed, strength))
    median = float(torch.tensor(psnr).median())
    return {"read": share_read(psnr), "median": median, "strength": strength}


@cache
def chosen_strength(arm: str, clients: int, batch: int, steps: int, bins: int) -> float:
    """Return the strength at which the most images of another seed are read."""
    key = (arm, clients, batch, steps, bins, OTHER_SEED)
    shares = {given: share_read(psnr_of(experiment(*key, given))) for given in STRENGTHS}
    return max(shares, key=lambda given: shares[given])


def share_read(psnr: list[float]) -> float:
    """Return the share of images above :data:`READ`."""
    return fmean(value > READ for value in psnr)


def trials(
    clients: Iterable[int], batches: Iterable[int], bins: int, seeds: int
) -> Iterator[tuple[Any, ...]]:
    """Yield the trials, the seeds of each after one another."""
    for count, batch, arm, steps in product(clients, batches, ARMS, (1, 4)):
        for seed in range(seeds):
            # Of clients that take several steps the imprint block's sum is not recorded.
            if steps == 1 or not arm.startswith("imprint"):
                yield arm, count, batch, steps, bins, seed


def table(found: Iterable[Mapping[str, Any]]) -> None:
    """Print the share of images that were read, its mean over the seeds and its range."""
    by_row: dict[tuple[Any, ...], list[float]] = {}
    for trial in found:
        row = tuple(trial[name] for name in ("clients", "batch", "steps", "arm"))
        by_row.setdefault(row, []).append(trial["read"])
    columns = [(arm, steps) for steps in (1, 4) for arm in ARMS]
    columns = [
        one for one in columns if any(key[3] == one[0] and key[2] == one[1] for key in by_row)
    ]
    titles = [f"{arm}{', 4 steps' if steps > 1 else ''}" for arm, steps in columns]
    print(f"| clients | images of each | {' | '.join(titles)} |")
    print("|" + "---|" * (2 + len(columns)))
    for clients, batch in sorted({key[:2] for key in by_row}):
        cells = []
        for arm, steps in columns:
            shares = by_row.get((clients, batch, steps, arm), [])
            cells.append(
                f"{100 * fmean(shares):.0f} % ({100 * min(shares):.0f} to {100 * max(shares):.0f})"
                if shares
                else ""
            )
        print(f"| {clients} | {batch} | {' | '.join(cells)} |")
    print(date_and_commit())


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--bins", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=500.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    assume_identity()
    keys = trials(given.clients, given.batches, given.bins, given.seeds)
    run_missing(keys, NAMES, figures_of, given.out, given.seconds)
    table(json.loads(given.out.read_text()))


if __name__ == "__main__":
    main()
