"""An audit: a federation with canaries, and what its model says about who was in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atoll.attacks.audits.canary_clients import canary_cosines, is_included
from atoll.attacks.audits.canary_examples import example_cosines
from atoll.attacks.captures.capture_files import find_captures, read_capture
from atoll.clients.models.model_building import build_model
from atoll.errors import InvalidExperimentError
from atoll.files.recorded import write_recorded_json
from atoll.platform.callbacks.observers import Observer
from atoll.platform.config.client_mods import with_references
from atoll.platform.config.experiment import Experiment, load_experiment
from atoll.platform.config.privacy.budget import spent_after, with_private_examples
from atoll.platform.config.privacy.canaries import are_examples, canary_nodes
from atoll.platform.config.privacy.notes import guarantees
from atoll.platform.config.sections import CaptureSettings
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.runs.federation_run import run
from atoll.privacy.one_run import audit_scores
from atoll.privacy.one_shot import one_shot_epsilon

AUDIT = "audit.json"
# Without a claim, the delta that the bound is at.
DELTA = 1e-5


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes
    ----------
    directory : Path
        The run directory; ``audit.json`` in it has the same figures.
    claim : float or None
        The epsilon that the accountant states for the rounds that were run; None where there is no
        accountant (Flower's own strategies of differential privacy have none).
    delta : float
        Of the claim and the bound.
    bound : float
        The lower bound on epsilon.
    confidence : float
        With which epsilon is above the bound, if canaries are independent of all else.
    estimate : float
        The one-shot estimate, which is no bound.
    canaries, included, guesses, right : int
        Canaries, those that were in the run, and the guesses of the bound.
    """

    directory: Path
    claim: float | None
    delta: float
    bound: float
    confidence: float
    estimate: float
    canaries: int
    included: int
    guesses: int
    right: int

    @property
    def is_refuted(self) -> bool:
        """Whether the claim is below the bound: the mechanism is not what it is said to be."""
        return self.claim is not None and self.bound > self.claim

    def table(self) -> Table:
        """Return the figures as a table of names and values."""
        claim = "none" if self.claim is None else f"{self.claim:.4g} at delta = {self.delta:g}"
        rows: list[list[Cell]] = [
            ["claimed epsilon", claim],
            ["lower bound", f"{self.bound:.4g} with confidence {self.confidence:g}"],
            ["one-shot estimate", f"{self.estimate:.4g}"],
            ["canaries", f"{self.canaries}, {self.included} of them in the run"],
            ["guesses", f"{self.right} of {self.guesses} right"],
            ["verdict", "refuted: more leaks than is claimed" if self.is_refuted else "consistent"],
        ]
        return Table(str(self.directory), ["figure", "value"], rows)


def run_audit(
    experiment: Experiment | Path | str,
    *,
    out: Path | None = None,
    observers: Callable[[Path], list[Observer]] | None = None,
) -> AuditResult:
    """Run an experiment that has ``[audit]``, and bound its epsilon from below.

    Parameters
    ----------
    experiment : Experiment or path
        An experiment, or the path of its file.
    out : Path, optional
        The run directory; by default a new one below ``run.out``.
    observers : callable, optional
        As of :func:`atoll.run`.

    Raises
    ------
    AtollError
        If the experiment cannot be run, or has no ``[audit]``.

    Examples
    --------
    >>> from atoll import run_audit
    >>> result = run_audit(Path("experiments/audit.toml"))  # doctest: +SKIP
    >>> result.bound <= result.claim  # doctest: +SKIP
    """
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(Path(experiment))
    audit = experiment.audit
    if audit is None:
        raise InvalidExperimentError("audit: no such section; expected [audit] with canaries")
    if are_examples(experiment):
        experiment = _recording(experiment)
    federation = prepare(experiment)
    _check_sizes(experiment, federation)
    done = run(experiment, out=out, observers=observers)
    rounds = int(done.summary["rounds"])
    claim, delta = claim_of(experiment, federation, rounds)
    seed = experiment.run.seed
    if are_examples(experiment):
        numbered = range(audit.canaries)
        cosines = example_scores(done.directory, numbered, seed)
    else:
        numbered = canary_nodes(experiment)
        cosines = canary_cosines(federation.initial_arrays, done.arrays, numbered, seed)
    coins = [is_included(seed, number) for number in numbered]
    bound = audit_scores(cosines, coins, delta, audit.confidence)
    numbers = sum(math.prod(array.shape) for array in done.arrays.values())
    there = [cosine for cosine, coin in zip(cosines, coins, strict=True) if coin]
    result = AuditResult(
        done.directory,
        claim,
        delta,
        bound.epsilon,
        audit.confidence,
        one_shot_epsilon(there, numbers, delta) if len(there) > 1 else math.nan,
        len(coins),
        sum(coins),
        bound.guesses,
        bound.right,
    )
    figures = {name: value for name, value in asdict(result).items() if name != "directory"}
    write_recorded_json(done.directory / AUDIT, figures)
    return result


def _recording(experiment: Experiment) -> Experiment:
    """Return the experiment with captures of the client that has canary examples."""
    if experiment.capture is not None:
        raise InvalidExperimentError(
            "audit: records the client with canary examples itself; expected no [capture]"
        )
    rounds = tuple(range(1, experiment.run.rounds + 1))
    capture = CaptureSettings(nodes=(experiment.data.clients,), rounds=rounds)
    return experiment.model_copy(update={"capture": capture})


def _check_sizes(experiment: Experiment, federation: Federation) -> None:
    """Refuse more canary examples than the client has."""
    audit, sizes = experiment.audit, federation.partition.sizes
    assert audit is not None
    if are_examples(experiment) and audit.canaries > sizes[-1]:
        raise InvalidExperimentError(
            f"audit.canaries = {audit.canaries}: node {len(sizes)} has {sizes[-1]} examples; "
            "expected at most as many"
        )


def example_scores(directory: Path, canaries: range, seed: int) -> NDArray[np.float64]:
    """Return the cosines of canary examples with all updates of their client: the server's view.

    Parameters
    ----------
    directory : Path
        Of a run that captured that client alone.
    canaries : range
        Their places.
    seed : int
        Of their coins and directions.
    """
    captures = [read_capture(path) for path in find_captures(directory)]
    info = captures[0].federation
    model = build_model(info.model, info.inputs, info.task, info.model_seed)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    changes = [
        {name: capture.update[name] - capture.broadcast[name] for name in shapes}
        for capture in captures
    ]
    return example_cosines(changes, shapes, len(canaries), seed)


def claim_of(
    experiment: Experiment, federation: Federation, rounds: int
) -> tuple[float | None, float]:
    """Return the epsilon that an experiment claims, or None, and the delta.

    Parameters
    ----------
    experiment : Experiment
        Its ``[privacy]``, or mods of local privacy, claim it.
    federation : Federation
        The experiment's.
    rounds : int
        That were run.
    """
    if experiment.privacy is not None:
        private = with_private_examples(experiment)
        return spent_after(private, federation.strategy, rounds), experiment.privacy.delta
    client = with_references(experiment.client)
    found = list(guarantees(client, federation.partition.sizes, rounds))
    of_clients = [spent for spent in found if spent.protects == "clients"]
    if not of_clients:
        return None, DELTA
    least = min(of_clients, key=lambda spent: spent.epsilon)
    return least.epsilon, least.delta
