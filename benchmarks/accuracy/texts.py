"""Federations on texts beside pooled data and a client alone; LoRA beside full fine-tuning.

``python -m benchmarks.accuracy.texts shakespeare`` runs ``experiments/shakespeare.toml`` and
``python -m benchmarks.accuracy.texts adapters`` runs ``experiments/sentiment.toml`` with and
without ``[model.adapters]``; they print the tables of docs/results/text.md. ``--set KEY=VALUE``
changes an experiment, as for ``atoll run``.

- federated: the experiment, by the engine.
- pooled: one model takes as many local steps as all clients of the federation together, on all
  clients' examples.
- alone: a client takes as many steps on its own examples; the figure is the mean over ten clients
  of the metric on all test examples that the server evaluates on.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from atoll import Experiment, load_experiment, run
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import test_sets
from atoll.clients.models.model_building import build_model, model_seed
from atoll.clients.training.evaluation import evaluate
from atoll.clients.training.local_training import train
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.runs.natural_clients import with_natural_clients
from atoll.randomness import derive_seed
from benchmarks.accuracy.recorded import date_and_commit
from benchmarks.paths import ROOT

CLIENTS_ALONE = 10
Figures = dict[str, dict[str, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Federations on texts.")
    parser.add_argument("part", choices=("shakespeare", "adapters"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(recorded())
    rows: Figures = {}
    for seed in given.seeds:
        overrides = [*given.overrides, f"run.seed={seed}"]
        if given.part == "shakespeare":
            of_shakespeare(overrides, rows)
        else:
            of_adapters(overrides, rows)
        print_table(rows)


def of_shakespeare(overrides: Sequence[str], rows: Figures) -> None:
    """Add federated, pooled and alone, with one seed."""
    experiment = experiment_of("shakespeare", overrides)
    found = recorded_run(experiment)
    names = ("accuracy", "perplexity")
    note(rows, "federated", {name: found[f"server_{name}"] for name in names})
    federation = prepare(experiment)
    partition, seed = federation.partition, experiment.run.seed
    everything = np.concatenate([partition.indices(c) for c in range(len(partition))])
    per_round = round(float(experiment.strategy.arguments["fraction_train"]) * len(partition))
    batches = -(-partition.sizes // experiment.client.batch_size)
    steps = round(experiment.run.rounds * per_round * float(batches.mean()))
    note(rows, "pooled", trained_on(experiment, federation, everything, steps, names))
    generator = np.random.default_rng(derive_seed(seed, "alone"))
    chosen = generator.choice(len(partition), CLIENTS_ALONE, replace=False)
    own_steps = [experiment.run.rounds * int(batches[c]) for c in chosen]
    each = [
        trained_on(experiment, federation, partition.indices(int(c)), count, names)
        for c, count in zip(chosen, own_steps, strict=True)
    ]
    mean = {name: statistics.fmean(one[name] for one in each) for name in names}
    note(rows, f"alone, mean of {CLIENTS_ALONE} roles", mean)


def of_adapters(overrides: Sequence[str], rows: Figures) -> None:
    """Add LoRA and full fine-tuning, with one seed."""
    adapted = experiment_of("sentiment", overrides)
    model = adapted.model.model_copy(update={"adapters": None})
    rate = adapted.client.learning_rate / 10
    client = adapted.client.model_copy(update={"learning_rate": rate})
    whole = adapted.model_copy(update={"model": model, "client": client})
    for label, experiment in (("LoRA", adapted), ("full fine-tuning", whole)):
        found = recorded_run(experiment)
        note(
            rows,
            label,
            {
                "accuracy, newspaper": found["server_accuracy"],
                "accuracy, training domains": found["server_validation_accuracy"],
                "MB a client and round": found["bytes_each"] / 1e6,
            },
        )


def experiment_of(name: str, overrides: Sequence[str]) -> Experiment:
    return with_natural_clients(load_experiment(ROOT / "experiments" / f"{name}.toml", overrides))


def recorded_run(experiment: Experiment) -> Mapping[str, float]:
    """Return a run's metrics, and the bytes that a client is sent and sends in a round."""
    log = experiment.log.model_copy(update={"progress": False, "level": "error"})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        metrics = dict(run(experiment.model_copy(update={"log": log}), out=out).metrics)
        rounds = pq.read_table(out / "rounds.parquet").to_pylist()
    trained = [row for row in rounds if row.get("clients_sampled") or row.get("bytes_down")]
    clients = experiment.strategy.arguments["fraction_train"] * experiment.data.clients
    metrics["bytes_each"] = statistics.fmean(row["bytes_down"] for row in trained) / clients
    return metrics


def trained_on(
    experiment: Experiment,
    federation: Federation,
    indices: NDArray[np.int64],
    steps: int,
    names: Sequence[str],
) -> dict[str, float]:
    """Return the metrics of the experiment's model after steps on these examples alone."""
    dataset: Dataset = federation.dataset
    seed = experiment.run.seed
    model = build_model(experiment.model, dataset.inputs, dataset.task, model_seed(seed))
    client = experiment.client.model_copy(update={"epochs": None, "steps": steps})
    train(
        model,
        dataset.inputs.to_tensor(dataset.train.inputs[indices]),
        torch.from_numpy(dataset.train.labels[indices]),
        client,
        learning_rate=client.learning_rate,
        generator=torch.Generator().manual_seed(derive_seed(seed, "steps")),
        task=dataset.task,
    )
    (examples,) = test_sets(dataset, (), experiment.data.test_examples).indices
    found = evaluate(model, dataset, dataset.test, examples).metrics()
    return {name: float(found[name]) for name in names}  # type: ignore[arg-type]


def recorded() -> str:
    return f"{date_and_commit()}, PyTorch {torch.__version__}"


def note(rows: Figures, label: str, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        rows.setdefault(label, {}).setdefault(name, []).append(value)


def print_table(rows: Figures) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n| | {' | '.join(columns)} | seeds |\n|---|{'---|' * (len(columns) + 1)}")
    for label, figures in rows.items():
        cells = [shown(figures[column]) for column in columns]
        print(f"| {label} | {' | '.join(cells)} | {len(figures[columns[0]])} |", flush=True)


def shown(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4g} ± {spread:.2g}"


if __name__ == "__main__":
    main()
