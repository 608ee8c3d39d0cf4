"""Federations on tables beside pooled data and a client alone, and beside scikit-learn.

``python -m benchmarks.accuracy.tables`` runs ``experiments/heart-disease.toml``, ``adult.toml`` and
``bikeshare.toml`` with seeds 0, 1 and 2 and prints the tables of docs/results/tables.md.

- federated: the experiment, by the engine.
- pooled: one client has all clients' examples, for as many rounds.
- alone: each client trains for as many rounds on its own examples, with statistics of its own; the
  figures are the mean and the median over clients of the metric on all test examples.

``--flamby`` runs heart disease by FLamby's protocol instead: its patients, split, model, optimiser,
rounds and steps (a softmax over two logits with half of its learning rate takes its steps).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from atoll import Experiment, load_experiment, run
from atoll.clients.data.client_statistics import fit_to_clients
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.models.model_building import build_model
from atoll.clients.models.tables import OneHotRows
from atoll.clients.training.evaluation import evaluate
from atoll.clients.training.local_training import train
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.natural_clients import with_natural_clients
from atoll.randomness import derive_seed
from benchmarks.accuracy.recorded import date_and_commit
from benchmarks.paths import ROOT

SEEDS = (0, 1, 2)
SHOWN = {
    "heart-disease": ("accuracy", "auroc"),
    "adult": ("accuracy", "auroc"),
    "bikeshare": ("deviance", "rmse"),
}
# FLamby's federated logistic regression: flamby/datasets/fed_heart_disease/common.py and
# flamby/config_heart_disease.json in commit edacf54.
FLAMBY_RUN = {"rounds": 15}
FLAMBY_CLIENT = {"steps": 100, "batch_size": 4, "learning_rate": 0.0005}
HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
Figures = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Federations on tables.")
    parser.add_argument("--data", nargs="+", choices=list(SHOWN), default=list(SHOWN))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--flamby", action="store_true", help="heart disease by FLamby's protocol")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # Flower's words of each round.
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(recorded())
    if given.flamby:
        rows = flamby_rows(given.seeds)
        print_table(rows, [f"accuracy, {name}" for name in HOSPITALS])
        return
    for name in given.data:
        print(f"\n{name}\n")
        rows = dict(rows_of(name, given.seeds))
        print_table(rows, SHOWN[name])


def rows_of(name: str, seeds: Sequence[int]) -> Iterator[tuple[str, Figures]]:
    """Yield what was trained how, and its metrics with each seed."""
    rows: dict[str, Figures] = {}
    for seed in seeds:
        experiment = experiment_of(name, seed)
        federation = prepare(experiment)
        dataset, partition = federation.dataset, federation.partition
        note(rows, "federated", federated(experiment))
        everything = np.concatenate([partition.indices(c) for c in range(len(partition))])
        note(rows, "pooled", trained_on(experiment, dataset, np.sort(everything)))
        each = [
            trained_on(experiment, own_statistics(dataset, indices), indices)
            for indices in map(partition.indices, range(len(partition)))
        ]
        mean = {key: statistics.fmean(one[key] for one in each) for key in SHOWN[name]}
        note(rows, f"alone, mean of {len(each)}", mean)
        middle = {key: statistics.median(one[key] for one in each) for key in SHOWN[name]}
        note(rows, f"alone, median of {len(each)}", middle)
        if name == "adult":
            for label, metrics in of_scikit_learn(dataset, seed):
                note(rows, label, metrics)
    yield from rows.items()


def flamby_rows(seeds: Sequence[int]) -> dict[str, Figures]:
    """Return the accuracy on each hospital's test patients: federated as FLamby, and as we do."""
    rows: dict[str, Figures] = {}
    for seed in seeds:
        for label, experiment in {
            "FLamby's FedAvg": flamby_experiment(seed),
            "experiments/heart-disease.toml": experiment_of(
                "heart-disease", seed, ["data.options.protocol=flamby"]
            ),
        }.items():
            found = run_once(experiment)
            named = {f"accuracy, {h}": found[f"server_accuracy_{h}"] for h in HOSPITALS}
            note(rows, label, named)
    return rows


def experiment_of(name: str, seed: int, overrides: Sequence[str] = ()) -> Experiment:
    path = ROOT / "experiments" / f"{name}.toml"
    return with_natural_clients(load_experiment(path, [*overrides, f"run.seed={seed}"]))


def flamby_experiment(seed: int) -> Experiment:
    tables = {
        "run": {"name": "flamby", "seed": seed, **FLAMBY_RUN},
        "data": {"dataset": "heart-disease", "options": {"protocol": "flamby"}},
        "model": {"name": "table-linear"},
        "client": FLAMBY_CLIENT,
        "strategy": {"fraction_evaluate": 0.0},
    }
    return with_natural_clients(Experiment.from_dict(tables))


def federated(experiment: Experiment) -> dict[str, float]:
    found = run_once(experiment)
    return {key: found[f"server_{key}"] for key in SHOWN[experiment.data.dataset]}


def run_once(experiment: Experiment) -> Mapping[str, float]:
    log = experiment.log.model_copy(update={"progress": False, "level": "error"})
    with tempfile.TemporaryDirectory() as folder:
        return run(experiment.model_copy(update={"log": log}), out=Path(folder) / "run").metrics


def own_statistics(dataset: Dataset, indices: NDArray[np.int64]) -> Dataset:
    """Return the data set as a client sees it that is alone: with its own statistics."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "offsets.npy", np.array([0, len(indices)]))
        np.save(Path(folder) / "indices.npy", indices)
        return fit_to_clients(dataset, Partition(Path(folder)), 0.0, 0)


def trained_on(
    experiment: Experiment, dataset: Dataset, indices: NDArray[np.int64]
) -> dict[str, float]:
    """Return the metrics of the experiment's model trained on these examples alone."""
    seed, client = experiment.run.seed, experiment.client
    initial = derive_seed(seed, "initial parameters")
    model = build_model(experiment.model, dataset.inputs, dataset.task, initial)
    inputs = dataset.inputs.to_tensor(dataset.train.inputs[indices])
    labels = torch.from_numpy(dataset.train.labels[indices])
    for server_round in range(experiment.run.rounds):
        generator = torch.Generator().manual_seed(derive_seed(seed, "round", server_round))
        train(
            model,
            inputs,
            labels,
            client,
            learning_rate=client.learning_rate,
            generator=generator,
            task=dataset.task,
        )
    found = evaluate(model, dataset, dataset.test, np.arange(len(dataset.test))).metrics()
    return {key: float(found[key]) for key in SHOWN[experiment.data.dataset]}  # type: ignore[arg-type]


def of_scikit_learn(dataset: Dataset, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield scikit-learn's models of all training examples."""
    inputs = dataset.inputs
    assert isinstance(inputs, TableInputs)
    sides = [inputs.to_tensor(split.inputs) for split in (dataset.train, dataset.test)]
    one_hot = [OneHotRows(inputs)(side).numpy() for side in sides]
    linear = LogisticRegression(max_iter=2_000).fit(one_hot[0], dataset.train.labels)
    yield "scikit-learn, logistic regression", scores(dataset, linear.predict_proba(one_hot[1]))
    rows = [side.numpy() for side in sides]
    is_category = np.arange(rows[0].shape[1]) >= inputs.number_width
    boosted = HistGradientBoostingClassifier(categorical_features=is_category, random_state=seed)
    boosted.fit(rows[0], dataset.train.labels)
    yield "scikit-learn, gradient boosting", scores(dataset, boosted.predict_proba(rows[1]))


def scores(dataset: Dataset, probabilities: NDArray[np.float64]) -> dict[str, float]:
    logits = torch.from_numpy(np.log(probabilities.clip(1e-12)))
    found = dataset.task.summarise(
        dataset.task.measure(logits, torch.from_numpy(np.array(dataset.test.labels)))
    )
    return {key: float(found[key]) for key in SHOWN["adult"]}  # type: ignore[arg-type]


def recorded() -> str:
    """Return the command, the date and the commit."""
    command = " ".join(["python -m benchmarks.accuracy.tables", *sys.argv[1:]])
    return f"{command}; {date_and_commit()}"


def note(rows: dict[str, Figures], label: str, metrics: Mapping[str, float]) -> None:
    for key, value in metrics.items():
        rows.setdefault(label, {}).setdefault(key, []).append(value)


def print_table(rows: Mapping[str, Figures], columns: Sequence[str]) -> None:
    print(f"| trained | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for label, figures in rows.items():
        cells = [shown(column, figures[column]) for column in columns]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def shown(column: str, values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds; shares in percent."""
    is_share = column.startswith(("accuracy", "auroc"))
    factor, digits = (100, 1) if is_share else (1, 2)
    mean = factor * statistics.fmean(values)
    spread = factor * statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    main()
