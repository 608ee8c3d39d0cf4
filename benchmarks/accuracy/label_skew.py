"""Rounds and bytes to an accuracy under label skew, with as many trials for each method.

``python -m benchmarks.accuracy.label_skew --out FILE`` runs what is not in FILE yet, and ``--table
FILE`` prints the table of docs/results/objectives.md. A trial is a data set, a method, one of its
settings and a seed; each method has four settings. Its row is the setting that is at the highest
target first, in the mean over the seeds: it is chosen on the test examples, for each method in the
same way.

- rounds: the first round after which the server's accuracy is at least the target.
- MB: what a client sent and was sent up to then, control variates and the like included.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from typing import Any

from atoll import Experiment
from atoll.platform.runs.federation import prepare
from benchmarks.accuracy.in_process import quiet_process, strategy_rounds
from benchmarks.accuracy.recorded import add_trial_options, commit, mean_and_range, run_missing

SEEDS = (0, 1, 2)
CLIENTS, TESTED = 10, 2000
KEY = ("data", "method", "setting", "seed")
Tables = dict[str, Any]
Trial = dict[str, Any]
# Rounds, [data] and [model] of a data set.
DATA: dict[str, tuple[int, Tables, Tables]] = {
    "fashion-mnist": (20, {"dataset": "fashion-mnist", "train_examples": 1000}, {"name": "mlp"}),
    "cifar10": (20, {"dataset": "cifar10", "train_examples": 1000}, {"name": "cnn-small"}),
}
RATES = (0.02, 0.05, 0.1, 0.2)


def _plain(name: str) -> dict[str, tuple[Tables, Tables]]:
    """Return a strategy without a setting of its own: four rates."""
    return {f"rate {rate:g}": ({"name": name}, {"learning_rate": rate}) for rate in RATES}


def _with(key: str, values: tuple[float, float], make: Any) -> dict[str, tuple[Tables, Tables]]:
    """Return a method with two rates and two values of its own setting."""
    settings = {}
    for rate in RATES[1:3]:
        for value in values:
            strategy, client = make(value)
            settings[f"rate {rate:g}, {key} {value:g}"] = (
                {"name": "FedAvg", **strategy},
                {"learning_rate": rate, **client},
            )
    return settings


def _term(name: str, **settings: float) -> Tables:
    return {"objective": [{"name": name, **settings}]}


# What [strategy] and [client] have, by a method's settings.
METHODS: dict[str, dict[str, tuple[Tables, Tables]]] = {
    "FedAvg": _plain("FedAvg"),
    "FedProx": _with("mu", (0.01, 0.1), lambda mu: ({}, {"proximal_mu": mu})),
    "SCAFFOLD": _plain("SCAFFOLD"),
    "FedDyn": _with("alpha", (0.01, 0.1), lambda a: ({"name": "FedDyn", "alpha": a}, {})),
    "FedNova": _plain("FedNova"),
    "MOON": _with("weight", (1.0, 5.0), lambda w: ({}, _term("moon", weight=w))),
    "FedSAM": _with("rho", (0.01, 0.05), lambda rho: ({}, _term("sam", rho=rho))),
}


def main() -> None:
    """Run trials, or print the tables."""
    parser = argparse.ArgumentParser(description="Rounds and bytes under label skew.")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=["fashion-mnist"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--settings", nargs="+", help="names; by default all of each method")
    parser.add_argument("--targets", nargs="+", type=float, default=[0.65, 0.7, 0.75])
    add_trial_options(parser, SEEDS)
    given = parser.parse_args()
    if given.table is not None:
        print_tables(json.loads(given.table.read_text()), sorted(given.targets))
        return
    quiet_process()
    keys = trials(given.data, given.methods, given.settings, given.seeds)
    run_missing(keys, KEY, figures_of, given.out, given.seconds)


def trials(
    names: list[str], methods: list[str], settings: list[str] | None, seeds: list[int]
) -> Iterator[tuple[str, str, str, int]]:
    """Yield every trial, a whole seed at a time."""
    for seed in seeds:
        for data in names:
            for method in methods:
                for setting in METHODS[method]:
                    if settings is None or setting in settings:
                        yield data, method, setting, seed


def experiment_of(data: str, method: str, setting: str, seed: int) -> Experiment:
    """Return a trial's experiment."""
    rounds, of_data, model = DATA[data]
    strategy, client = METHODS[method][setting]
    return Experiment.from_dict(
        {
            "run": {"seed": seed, "rounds": rounds},
            "data": {
                **of_data,
                "clients": CLIENTS,
                "test_examples": TESTED,
                "partition": {"name": "dirichlet", "alpha": 0.1, "min_partition_size": 10},
            },
            "model": model,
            "client": {"epochs": 3, "batch_size": 20, **client},
            "strategy": strategy,
        }
    )


def figures_of(*key: Any) -> Trial:
    """Run a trial, and return its accuracies and a client's bytes a round."""
    experiment = experiment_of(*key)
    done = list(strategy_rounds(prepare(experiment), experiment.run.rounds, TESTED))
    return {
        "accuracies": [one.accuracy for one in done],
        "bytes": [one.bytes_up + one.bytes_down for one in done],
        "commit": commit(),
    }


def print_tables(found: list[Trial], targets: list[float]) -> None:
    """Print a table a data set: each method at its best setting."""
    print(f"commit {', '.join(sorted({trial['commit'] for trial in found}))}")
    heads = [f"{target:g}: rounds | MB" for target in targets]
    for data in DATA:
        rows = [trial for trial in found if trial["data"] == data]
        if rows:
            print(f"\n{data}, {DATA[data][0]} rounds\n")
            print(f"| method | setting | {' | '.join(heads)} | last accuracy | seeds |")
            print("|---|---|" + "---|---|" * len(targets) + "---|---|")
        for method, settings in METHODS.items():
            of_setting = {
                name: [t for t in rows if (t["method"], t["setting"]) == (method, name)]
                for name in settings
            }
            tried = {name: same for name, same in of_setting.items() if same}
            if tried:
                best = min(tried, key=lambda name: _rank(tried[name], targets))
                print(f"| {method} | {best} | {_cells(tried[best], targets)}")


def reached(trial: Trial, target: float) -> int | None:
    """Return the first round after which a trial's accuracy is at least a target."""
    return next((i for i, a in enumerate(trial["accuracies"], 1) if a >= target), None)


def _rank(same: list[Trial], targets: list[float]) -> tuple[float, ...]:
    """Return what is least for the setting that reaches the highest target for most seeds first."""
    rank: list[float] = []
    for target in reversed(targets):
        firsts = [first for t in same if (first := reached(t, target)) is not None]
        rank += [len(same) - len(firsts), statistics.fmean(firsts) if firsts else 0.0]
    return tuple(rank)


def _cells(same: list[Trial], targets: list[float]) -> str:
    cells = []
    for target in targets:
        firsts = [first for t in same if (first := reached(t, target)) is not None]
        if len(firsts) < len(same):
            cells += [f"{len(firsts)} of {len(same)} seeds", "-"]
            continue
        sent = [sum(t["bytes"][:first]) / 1e6 for t, first in zip(same, firsts, strict=True)]
        mean = statistics.fmean(firsts)
        cells += [f"{mean:.1f} ({min(firsts)} to {max(firsts)})", f"{statistics.fmean(sent):.1f}"]
    last = mean_and_range([t["accuracies"][-1] if t["accuracies"] else 0.0 for t in same])
    return f"{' | '.join(cells)} | {last} | {len(same)} |"


if __name__ == "__main__":
    main()
