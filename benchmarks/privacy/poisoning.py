"""Poisoned clients: attack x aggregation x skew, with intervals over seeds.

``python -m benchmarks.privacy.poisoning`` runs the trials of ``experiments/poisoning.toml`` in one
process, without a cluster, and prints the tables of docs/results/poisoning.md. Each trial's figures
are appended to ``--results``, and trials that are there are not run again; ``--budget SECONDS``
ends it after a while; the same command continues. Trials come by seed, so that a first answer for
each cell is there early. ``--only WORD`` runs trials whose label has it; ``--table`` prints what
there is. ``--moments`` prints the table of poisoned moments of an alignment strategy instead.

- accuracy: of the last round's model on all test examples.
- success: the share of the test examples that the attack aims at that are classed as it wants.
- worst: the least accuracy over honest clients, each on its held-out examples.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from atoll import Experiment, flower
from atoll.clients.apps.client_app import make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.models.model_building import build_model
from atoll.clients.training.evaluation import evaluate
from atoll.errors import EngineError
from atoll.platform.config.poisoning import poison_of
from atoll.platform.results.student import t_factor
from atoll.platform.runs.components import ComponentCache
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.sweeps.sweep_plan import Trial, load_sweep
from atoll.randomness import derive_seed, seed_everything
from benchmarks.accuracy.recorded import date_and_commit
from benchmarks.paths import ROOT

SWEEP = ROOT / "experiments" / "poisoning.toml"
Figures = dict[str, float]
CACHE = ComponentCache()


class InProcessGrid(Grid):
    """A grid that calls the ClientApp of each node in turn, in the order of their ids."""

    def __init__(self, app: Any, nodes: int, seed: int) -> None:
        flower.assume_identity()
        self._app, self._nodes, self._seed = app, nodes, seed

    def set_run(self, run: Any) -> None:
        """Nothing asks for it."""
        raise NotImplementedError

    @property
    def run(self) -> Any:
        """Nothing asks for it."""
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """Nothing asks for it."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Nothing asks for it."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Nothing asks for it."""
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        """Return the ids from 1."""
        return list(range(1, self._nodes + 1))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the answers."""
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        replies = []
        for message in sorted(messages, key=lambda m: m.metadata.dst_node_id):
            node = message.metadata.dst_node_id
            config = {"partition-id": node - 1, "num-partitions": self._nodes}
            seed_everything(derive_seed(self._seed, "client", node))
            replies.append(self._app(message, Context(1, node, config, RecordDict(), {})))
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        return replies


def trained(experiment: Experiment, federation: Federation) -> ArrayRecord:
    """Return the model after the last round."""
    seed = experiment.run.seed
    seed_everything(derive_seed(seed, "server"))
    grid = InProcessGrid(make_client_app(federation.spec), experiment.data.clients, seed)
    strategy, arrays = federation.strategy, federation.initial_arrays
    for server_round in range(1, experiment.run.rounds + 1):
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        replies = grid.send_and_receive(messages)
        aggregated, _ = strategy.aggregate_train(server_round, replies)
        arrays = arrays if aggregated is None else aggregated
    return arrays


def figures_of(experiment: Experiment) -> Figures:
    """Run a trial and return its figures."""
    federation = prepare(experiment, CACHE)
    arrays = trained(experiment, federation)
    dataset, spec = federation.dataset, federation.spec
    model = build_model(experiment.model, dataset.inputs, dataset.task, 0)
    ModelArrays(model).load(arrays)
    tested = np.arange(len(dataset.test))
    found = {"accuracy": float(evaluate(model, dataset, dataset.test, tested)["accuracy"])}
    poison = poison_of(experiment, experiment.data.clients, dataset)
    attackers = () if poison is None else poison.nodes
    if poison is not None and poison.has_goal:
        inputs, wanted = poison.goal(dataset, poison.aims(dataset, tested))
        found["success"] = success_of(model, inputs, wanted)
    worst = 1.0
    for client in range(experiment.data.clients):
        _, own = federation.partition.split(client, spec.client_test_fraction, spec.seed)
        if client + 1 not in attackers and len(own):
            worst = min(worst, float(evaluate(model, dataset, dataset.train, own)["accuracy"]))
    return {**found, "worst": worst}


def success_of(model: nn.Module, inputs: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the share of inputs that a model classes as wanted."""
    with torch.no_grad():
        return float((model.eval()(inputs).argmax(1) == wanted).double().mean())


def cell_of(trial: Trial) -> dict[str, Any]:
    """Return what a trial is of."""
    experiment = trial.experiment
    poison, partition = experiment.poison, experiment.data.partition
    return {
        "aggregation": trial.method,
        "attack": "none" if poison is None else poison.attack,
        "alpha": partition.arguments["alpha"],
        "seed": experiment.run.seed,
    }


def run_trials(trials: Sequence[Trial], results: Path, budget: float, only: str) -> None:
    """Run the trials that are not among the results, until the budget is spent."""
    done = {json.dumps(row["cell"], sort_keys=True) for row in rows_of(results)}
    began = time.monotonic()
    for trial in sorted(trials, key=lambda trial: trial.experiment.run.seed):
        cell = cell_of(trial)
        key = json.dumps(cell, sort_keys=True)
        if key in done or only not in key:
            continue
        if time.monotonic() - began > budget:
            print("the budget is spent; the same command continues", file=sys.stderr)
            return
        clock = time.monotonic()
        row = {"cell": cell, **figures_of(trial.experiment)}
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, f"{time.monotonic() - clock:.1f} s", file=sys.stderr, flush=True)


def rows_of(results: Path) -> list[dict[str, Any]]:
    """Return the results that there are."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def interval(values: Sequence[float]) -> str:
    """Return a mean in per cent with its 95 % t interval over seeds."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = t_factor(0.95, len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.1f} ± {100 * half:.1f}"


def tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the tables: one a skew and figure."""
    cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        of = row["cell"]
        cells.setdefault((of["alpha"], of["aggregation"], of["attack"]), []).append(row)
    for alpha in dict.fromkeys(key[0] for key in cells):
        for figure in ("accuracy", "success", "worst"):
            here = {k: v for k, v in cells.items() if k[0] == alpha and figure in v[0]}
            attacks = list(dict.fromkeys(key[2] for key in here))
            if not attacks:
                # Attacks without a goal have no success.
                continue
            yield f"\nalpha = {alpha:g}, {figure} (%)\n"
            yield f"| aggregation | {' | '.join(attacks)} |"
            yield f"|---|{'---|' * len(attacks)}"
            for method in dict.fromkeys(key[1] for key in here):
                of_row = [here.get((alpha, method, attack), []) for attack in attacks]
                shown = [interval([r[figure] for r in own]) if own else "" for own in of_row]
                yield f"| {method} | {' | '.join(shown)} |"


def moment_rows(seeds: Sequence[int]) -> Iterator[str]:
    """Yield lines of what one poisoned client of six does to VREx, by its moments or its update."""
    attacks: dict[str, dict[str, Any]] = {
        "none": {"attack": "none"},
        "moments x -1": {"attack": "moment-scaling", "factor": -1.0},
        "moments x 100": {"attack": "moment-scaling", "factor": 100.0},
        "update x -4": {"attack": "sign-flip", "factor": 4.0},
    }
    yield "| one client of six sends | accuracy (%) | worst honest client (%) |"
    yield "|---|---|---|"
    for label, poison in attacks.items():
        try:
            rows = [figures_of(aligned_experiment(poison, seed)) for seed in seeds]
        except EngineError as error:
            yield f"| {label} | no model: {str(error).partition(',')[0]} | |"
            continue
        shown = [interval([row[figure] for row in rows]) for figure in ("accuracy", "worst")]
        yield f"| {label} | {' | '.join(shown)} |"


def aligned_experiment(poison: Mapping[str, Any], seed: int) -> Experiment:
    """Return VREx on the digits, each client a domain of its own."""
    partition = {"name": "dirichlet", "alpha": 0.5, "min_partition_size": 10}
    return Experiment.from_dict(
        {
            "run": {"rounds": 15, "seed": seed},
            "data": {
                "dataset": "digits",
                "clients": 6,
                "client_test_fraction": 0.2,
                "partition": partition,
            },
            "model": {"name": "mlp", "hidden": [32]},
            "client": {"learning_rate": 0.2, "batch_size": 32, "steps": 3},
            "strategy": {"name": "VREx", "penalty_weight": 1.0, "anneal_rounds": 0},
            "poison": {**poison, "nodes": [2]},
        }
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "poisoning.jsonl")
    parser.add_argument("--budget", type=float, default=float("inf"))
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--moments", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if arguments.moments:
        print("\n".join(moment_rows((0, 1, 2))))
        return
    trials = load_sweep(SWEEP).trials
    if not arguments.table:
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        run_trials(trials, arguments.results, arguments.budget, arguments.only)
    rows = rows_of(arguments.results)
    print(f"{len(rows)} of {len(trials)} trials, {date_and_commit()}")
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
