"""A sweep of alignment methods, centralised: its trials in this process, without messages.

``python -m benchmarks.accuracy.centralised experiments/rotated-mnist.toml --out
runs/rotated-mnist`` trains the trials of a sweep whose strategies have ``client_update =
"gradient"``: the same data, initial models, penalties, weights, schedules and server optimiser, on
minibatches of every domain that are drawn here. A step's gradient is the one that the federation
comes to from the same examples (tests/strategies/alignment/test_exactness.py), so accuracies are
those of ``atoll sweep`` up to which examples are drawn; with full batches (no
``examples_per_round``) they are the same up to rounding. It is for machines where a federation's
messages would take most of the time. The tables are made by the sweep's own rules of selection;
``diagnostics.md`` has what the server would measure of the last model: the transfer measure, and
the distances of the held-out domain's head gradient and Hessian. Trials that are there already are
not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.partitioning.domains import test_sets
from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.models.model_building import build_model
from atoll.clients.moments.alignment_objective import AlignmentObjective
from atoll.clients.moments.domain_examples import DomainExamples
from atoll.clients.moments.example_passes import Passes
from atoll.clients.training.evaluation import evaluate
from atoll.clients.training.optimizers import SGD, Adam, LocalOptimizer
from atoll.errors import InvalidExperimentError
from atoll.files.atomic import write_text
from atoll.platform.rounds.server_diagnostics import EXAMPLES
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.sweeps.model_selection import Curve
from atoll.platform.sweeps.sweep_plan import Trial, load_sweep
from atoll.platform.sweeps.sweep_results import write_results
from atoll.randomness import derive_seed, seed_everything
from atoll.strategies.alignment.alignment_method import FIXED_SEED
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.diagnostics import measure_diagnostics
from atoll.strategies.alignment.methods.gradients import GradientStrategy
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.alignment.training_terms import training_terms


@dataclass(frozen=True)
class Done:
    """Result of a trial; kept as JSON.

    Attributes
    ----------
    trial : str
        Its description.
    rounds : list[int]
        When it was evaluated.
    accuracy : dict[str, list[float]]
        By domain, at these rounds.
    training : list[str]
        The domains that were trained on.
    train_loss : list[float]
        The minibatches' mean loss over the rounds since the evaluation before.
    diagnostics : dict[str, float]
        Of the last model.
    seconds : float
        Of this process's processor time.
    """

    trial: str
    rounds: list[int]
    accuracy: dict[str, list[float]]
    training: list[str]
    train_loss: list[float]
    diagnostics: dict[str, float]
    seconds: float


class Centralised:
    """One trial: a model, its domains' examples, and the strategy that says what is minimised."""

    def __init__(self, trial: Trial) -> None:
        experiment = trial.experiment
        federation = prepare(experiment)
        self.strategy = _checked(federation.strategy, trial)
        self.dataset, self.held_out = federation.dataset, experiment.data.held_out
        model = build_model(experiment.model, self.dataset.inputs, self.dataset.task, 0)
        ModelArrays(model).load(federation.initial_arrays)
        self.model = SplitModel(model)
        self._examples = _examples_by_domain(federation)
        self._generator = torch.Generator().manual_seed(
            derive_seed(experiment.run.seed, "centralised")
        )
        self._optimizer = self._fresh_optimizer()
        self.sets = test_sets(self.dataset, self.held_out, experiment.data.test_examples)

    def _fresh_optimizer(self) -> LocalOptimizer:
        strategy = self.strategy
        rate, decay = strategy.server_learning_rate_at(1), strategy.server_weight_decay
        return Adam(rate, decay) if strategy.server_optimizer == "adam" else SGD(rate, 0.0, decay)

    def step(self, number: int) -> float:
        """Take the step of a round, from 1; return the minibatches' mean loss."""
        strategy = self.strategy
        if number == strategy.anneal_rounds + 1 and number > 1 and strategy.reset_optimizer:
            self._optimizer = self._fresh_optimizer()
        self._optimizer.learning_rate = strategy.server_learning_rate_at(number)
        self.model.model.train()
        examples = self.draw()
        outputs = self.model(examples.images, examples.labels, examples.positions)
        parts = {name: own.detached for name, own in examples.by_domain(outputs, slice(None))}
        domains = Domains.of_outputs(parts, strategy.domain_weights)
        # What clients would be sent, in the strategy's own words.
        terms = training_terms(strategy, number, domains, {})
        objective = AlignmentObjective(self.model, examples, terms, Passes(self.model))
        loss, cross_entropy = objective.of_outputs(slice(None), outputs)
        gradients = torch.autograd.grad(loss, self.model.parameters)
        with torch.no_grad():
            self._optimizer.step([p.detach() for p in self.model.parameters], list(gradients))
        return float(cross_entropy)

    def draw(self) -> DomainExamples:
        """Return a fresh minibatch of each domain, as the clients' are: without replacement."""
        chosen = []
        for inputs, labels in self._examples.values():
            size = self.strategy.examples_per_round or len(labels)
            order = torch.randperm(len(labels), generator=self._generator)[:size]
            own = order if size < len(labels) else slice(None)
            chosen.append((inputs[own], labels[own]))
        counts = torch.tensor([len(labels) for _, labels in chosen])
        return DomainExamples(
            torch.cat([inputs for inputs, _ in chosen]),
            torch.cat([labels for _, labels in chosen]),
            torch.repeat_interleave(torch.arange(len(chosen)), counts),
            tuple(self._examples),
        )

    def accuracies(self) -> dict[str, float]:
        """Return the accuracy on each domain's test examples."""
        return {
            name: evaluate(self.model.model, self.dataset, self.dataset.test, indices)["accuracy"]
            for name, indices in zip(self.sets.names, self.sets.indices, strict=True)
        }

    def diagnostics(self) -> dict[str, float]:
        """Return what the server would measure of the model: held-out against training domains."""
        head = copy.deepcopy(self.model.head).double()
        outputs = {
            name: self._outputs_on(indices[:EXAMPLES], head)
            for name, indices in zip(self.sets.names, self.sets.indices, strict=True)
            if name in (*self.sets.main, *self.sets.validation)
        }
        return measure_diagnostics(Domains.of_outputs(outputs), FIXED_SEED, self.sets.main)

    def _outputs_on(self, indices: NDArray[np.int64], head: nn.Module) -> HeadOutputs:
        self.model.model.eval()
        test = self.dataset.test
        inputs = self.dataset.inputs.to_tensor(test.inputs[indices])
        labels = torch.from_numpy(test.labels[indices])
        with torch.no_grad():
            found = self.model(inputs, labels, torch.arange(len(labels)))
        return HeadOutputs(
            found.features.double(), found.logits.double(), labels, found.positions, head, ()
        )


def _checked(strategy: Any, trial: Trial) -> AlignmentStrategy:
    """Return the strategy, if a trial of it is a series of exact steps along a gradient.

    Raises
    ------
    InvalidExperimentError
        If it is not.
    """
    if (
        isinstance(strategy, AlignmentStrategy)
        and not isinstance(strategy, GradientStrategy)
        and strategy.client_update == "gradient"
    ):
        return strategy
    raise InvalidExperimentError(
        f"strategy.name = {trial.experiment.strategy.name!r}: is not centralised here; expected an "
        "alignment method with a penalty and client_update = 'gradient'"
    )


def _examples_by_domain(federation: Federation) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the inputs and labels that the federation's clients hold, domain by domain."""
    dataset, partition = federation.dataset, federation.partition
    held = np.sort(np.concatenate(list(map(partition.indices, range(len(partition))))))
    assert dataset.train.domains is not None
    domains = dataset.train.domains[held]
    found = {}
    for index, name in sorted(enumerate(dataset.domains), key=lambda pair: pair[1]):
        own = held[domains == index]
        if len(own):
            inputs = dataset.inputs.to_tensor(dataset.train.inputs[own])
            found[name] = inputs, torch.from_numpy(dataset.train.labels[own])
    return found


def run(trial: Trial) -> Done:
    """Train and evaluate a trial."""
    started = time.process_time()
    settings = trial.experiment.run
    seed_everything(derive_seed(settings.seed, "server"))
    one = Centralised(trial)
    rounds: list[int] = []
    losses: list[float] = []
    accuracy: dict[str, list[float]] = {name: [] for name in one.sets.names}
    since: list[float] = []
    for number in range(1, settings.rounds + 1):
        since.append(one.step(number))
        if number % settings.evaluate_every == 0 or number == settings.rounds:
            rounds.append(number)
            losses.append(statistics.fmean(since))
            since = []
            for name, value in one.accuracies().items():
                accuracy[name].append(value)
    diagnostics = one.diagnostics() if one.sets.validation else {}
    trained = [name for name in one.sets.names if name in one._examples]
    seconds = time.process_time() - started
    return Done(str(trial), rounds, accuracy, trained, losses, diagnostics, seconds)


def curve_of(trial: Trial, done: Done) -> Curve:
    """Return a trial's accuracies as the sweep's rules of selection take them."""
    return Curve(
        trial.method,
        trial.hyperparameters,
        trial.seed,
        trial.held_out,
        tuple(done.training),
        np.array(done.rounds),
        {name: np.array(values) for name, values in done.accuracy.items()},
    )


def diagnostics_table(done: Sequence[tuple[Trial, Done]]) -> str:
    """Return the last models' diagnostics by method and setting, over seeds, as Markdown."""
    names = list(dict.fromkeys(name for _, d in done for name in d.diagnostics))
    lines = [
        f"| method | setting | {' | '.join(name.replace('_', ' ') for name in names)} |",
        f"|{'---|' * (len(names) + 2)}",
    ]
    rows: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for trial, d in done:
        setting = ", ".join(f"{key} = {value}" for key, value in trial.choices)
        rows.setdefault((trial.method, setting), []).append(d.diagnostics)
    for (method, setting), found in rows.items():
        cells = [_mean_and_error([d[name] for d in found if name in d]) for name in names]
        lines.append(f"| {method} | {setting} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean_and_error(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3g}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2g}"


def main() -> None:
    """Run what is missing of a sweep, and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sweep = load_sweep(arguments.sweep, arguments.overrides)
    kept = arguments.out / "centralised"
    kept.mkdir(parents=True, exist_ok=True)
    finished = []
    # A seed after the other: where the time ends, all methods have as many.
    for place, trial in enumerate(sorted(sweep.trials, key=lambda t: t.seed), 1):
        path = kept / f"{trial.name}.json"
        if not path.exists():
            done = run(trial)
            write_text(path, json.dumps(asdict(done)))
            last = {name: round(100 * values[-1], 1) for name, values in done.accuracy.items()}
            print(
                f"[{place}/{len(sweep.trials)}] {trial}: {last}, {done.seconds:.0f} s", flush=True
            )
        finished.append((trial, Done(**json.loads(path.read_text()))))
    curves = [curve_of(trial, done) for trial, done in finished]
    print(write_results(arguments.out, [trial for trial, _ in finished], curves))
    table = diagnostics_table(finished)
    write_text(arguments.out / "diagnostics.md", table)
    print(table)


if __name__ == "__main__":
    main()
