"""Unlearning of a client: each method by membership inference, a backdoor, accuracy and rounds.

``python -m benchmarks.privacy.unlearning`` trains a federation on Fashion-MNIST, has one client
leave by each method, and prints the table of docs/results/unlearning.md. Federations run in this
process, without a cluster, by the same strategy, clients and seeds as ``atoll unlearn``. Each
trial's figures are added to ``--results``, and trials that are there are not run again;
``--seconds`` ends it after a while, and the same command continues; ``--table`` prints what there
is.

Of each seed there are two federations: in one all clients are honest, for membership inference; in
the other the client that leaves has stamped its images with a trigger, for the backdoor.

- reference: retraining from other initial parameters and with other random numbers. Its loss says
  how hard an example is; the calibrated score of membership is by how much a model's loss is below.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord

from atoll import Experiment
from atoll.clients.apps.client_app import make_client_app
from atoll.clients.models.model_building import build_model
from atoll.platform.attack_runs.shadows.local_grid import LocalGrid
from atoll.platform.config.poisoning import poison_of
from atoll.platform.config.unlearning.problems import absent_nodes
from atoll.platform.results.student import t_factor
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.runs.components import ComponentCache
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.unlearning.witness import asked_of, figures_of
from atoll.randomness import derive_seed, seed_everything
from benchmarks.accuracy.recorded import commit, date_and_commit, run_missing
from benchmarks.paths import ROOT
from benchmarks.privacy.poisoning import success_of

LEAVES, CLIENTS, ROUNDS, REPAIR = 1, 5, 20, 3
EXAMPLES = 200
METHODS = ("none", "retrain", "fine-tune", "gradient-ascent", "projected-ascent")
LABELS = {"none": "before", "retrain": "retraining"}
SEEDS = (0, 1, 2)
WITNESSES = ("membership", "backdoor")
CACHE = ComponentCache()
FIGURES = {
    "test accuracy": "test accuracy",
    "erased accuracy": "erased accuracy",
    "loss AUROC": "AUROC, loss",
    "loss TPR at 1%": "TPR, loss",
    "gradient norm AUROC": "AUROC, gradient norm",
    "calibrated loss AUROC": "AUROC, calibrated",
    "calibrated loss TPR at 1%": "TPR, calibrated",
    "backdoor": "backdoor",
}


def tables_of(seed: int, *, is_poisoned: bool) -> dict[str, Any]:
    """Return the federation's experiment: small clients, which are learnt by heart."""
    tables: dict[str, Any] = {
        "run": {"rounds": ROUNDS, "seed": seed},
        "data": {
            "dataset": "fashion-mnist",
            "clients": CLIENTS,
            "train_examples": CLIENTS * EXAMPLES,
        },
        "model": {"name": "mlp", "hidden": [64]},
        "client": {"learning_rate": 0.1, "batch_size": 20, "epochs": 5},
        "strategy": {"name": "FedAvg", "fraction_evaluate": 0.0},
    }
    if is_poisoned:
        tables["poison"] = {"attack": "pixel-backdoor", "nodes": [LEAVES], "poison_share": 0.8}
    return tables


def unlearning(tables: Mapping[str, Any], method: str, start: Path | None) -> Experiment:
    """Return the experiment that has the client leave."""
    unlearn: dict[str, Any] = {"nodes": [LEAVES], "method": method}
    if start is not None:
        unlearn["run"] = str(start)
    changed = Experiment.from_dict({**tables, "unlearn": unlearn})
    rounds = ROUNDS
    if method != "retrain" and changed.unlearn is not None:
        rounds = changed.unlearn.rounds_before_repair + REPAIR
    return Experiment.from_dict(
        {**tables, "unlearn": unlearn, "run": {**tables["run"], "rounds": rounds}}
    )


def trained(
    experiment: Experiment, federation: Federation, *, draws: int | None = None
) -> ArrayRecord:
    """Return the model after the last round; ``draws`` seeds another start and other batches."""
    seed, initial = experiment.run.seed, federation.initial_arrays
    if draws is not None:
        seed, dataset = derive_seed(draws, "reference"), federation.dataset
        model = build_model(experiment.model, dataset.inputs, dataset.task, seed)
        initial = federation.spec.arrays_of(model).read()
    seed_everything(derive_seed(seed, "server"))
    app = make_client_app(federation.spec)
    grid = LocalGrid(app, experiment.data.clients, seed, absent=absent_nodes(experiment))
    options = RoundOptions(checkpoint_every=None)
    rounds = experiment.run.rounds
    done = run_rounds(federation.strategy, grid, initial, rounds, options=options)
    assert done.arrays is not None
    return done.arrays


def figures_of_seed(seed: int, witness: str) -> dict[str, Any]:
    """Return every method's figures on a federation: by membership, or by the backdoor."""
    tables = tables_of(seed, is_poisoned=witness == "backdoor")
    before = Experiment.from_dict(tables)
    federation = prepare(before, CACHE)
    last = trained(before, federation)
    retraining = unlearning(tables, "retrain", None)
    of_retraining = prepare(retraining, CACHE)
    reference = None
    if witness == "membership":
        reference = trained(retraining, of_retraining, draws=seed)
    asked = asked_of(retraining, of_retraining, EXAMPLES, seed)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder)
        CheckpointStore(start / "checkpoints").write(Checkpoint(ROUNDS, last))
        for method in METHODS:
            arrays, rounds = last, ROUNDS
            if method != "none":
                of = unlearning(tables, method, None if method == "retrain" else start)
                arrays, rounds = trained(of, prepare(of, CACHE)), of.run.rounds
            figures = figures_of(before, federation, arrays, asked, reference)
            figures |= _backdoor(before, federation, arrays)
            found[method] = {name: figures[name] for name in FIGURES if name in figures}
            found[method]["rounds"] = rounds
    return {"commit": commit(), "figures": found}


def _backdoor(
    experiment: Experiment, federation: Federation, arrays: ArrayRecord
) -> dict[str, float]:
    """Return the share of stamped test images that are classed as the target."""
    dataset = federation.dataset
    poison = poison_of(experiment, CLIENTS, dataset)
    if poison is None:
        return {}
    model = federation.spec.build_model(dataset)
    federation.spec.arrays_of(model).load(arrays)
    everything = torch.arange(len(dataset.test)).numpy()
    inputs, wanted = poison.goal(dataset, poison.aims(dataset, everything))
    return {"backdoor": success_of(model, inputs, wanted)}


def interval(values: Sequence[float]) -> str:
    """Return a mean with its 95 % t interval over seeds."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = t_factor(0.95, len(values) - 1) * (variance / len(values)) ** 0.5
    return f"{mean:.3f} ± {half:.3f}"


def table(trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table: a row a method."""
    yield f"| method | {' | '.join(FIGURES.values())} | rounds |"
    yield f"|---|{'---|' * (len(FIGURES) + 1)}"
    for method in METHODS:
        cells = []
        for name in FIGURES:
            witness = "backdoor" if name == "backdoor" else "membership"
            own = [t["figures"][method][name] for t in trials if t["witness"] == witness]
            cells.append(interval(own) if own else "")
        rounds = trials[0]["figures"][method]["rounds"]
        yield f"| {LABELS.get(method, method)} | {' | '.join(cells)} | {rounds} |"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "unlearning.json")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", choices=WITNESSES, help="of the two federations of a seed")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if not arguments.table:
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        wanted = WITNESSES if arguments.only is None else (arguments.only,)
        keys = [(seed, witness) for seed in SEEDS for witness in wanted]
        run_missing(
            keys, ("seed", "witness"), figures_of_seed, arguments.results, arguments.seconds
        )
    trials = json.loads(arguments.results.read_text())
    print(f"{len(trials)} trials, {date_and_commit()}")
    if trials:
        print("\n".join(table(trials)))


if __name__ == "__main__":
    main()
