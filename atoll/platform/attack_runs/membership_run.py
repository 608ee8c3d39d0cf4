"""``atoll membership``: who of some candidates was a client's, from a run's captures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from atoll.attacks.base.attack import ignore_progress
from atoll.attacks.captures.capture import SUM, Capture, faults_of
from atoll.attacks.captures.capture_files import find_captures, read_capture, read_truth
from atoll.attacks.membership.active_server import ACTIVE_THREAT
from atoll.attacks.membership.candidate_signals import Candidates, RoundSignals, signals_of
from atoll.attacks.membership.operating_points import Interval, auroc, found_at
from atoll.attacks.membership.passive_scores import SCORES
from atoll.attacks.threat.capabilities import ThreatModel
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.tasks.classification import Classification
from atoll.errors import AttackError, CaptureError
from atoll.platform.attack_runs.active_membership import ACTIVE, ASCENT, active_scores
from atoll.platform.attack_runs.attack_rows import write_rows
from atoll.platform.attack_runs.attack_run import ATTACKS_FOLDER, dataset_of, uses_of
from atoll.platform.attack_runs.shadows.shadow_attacks import (
    COLUMNS,
    SHADOW_THREAT,
    ShadowAttack,
    ShadowSettings,
    Suspect,
    shadow_scores,
)
from atoll.platform.attack_runs.shadows.shadow_runs import Asked, Progress
from atoll.platform.reports.membership_report import write_membership_report
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.run_directory.run_files import check_run_directory
from atoll.platform.runs.session import new_run_directory
from atoll.randomness import derive_seed
from atoll.user_code.trust import Ask, admitted, refuse

ROWS = "membership.parquet"
# A client's examples that are candidates, and as many others.
CANDIDATES = 200
FALSE_RATES = (0.01, 0.001)
# Which scores an attack gives beside the passive ones.
ATTACKS: Mapping[str, tuple[str, ...]] = {**COLUMNS, "active": (ACTIVE,)}
METHODS = (*SCORES, *(column for columns in ATTACKS.values() for column in columns))
Attack = Literal["lira", "rmia", "active"]
Scores = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class MembershipRun:
    """Scores of candidates, and how well they tell members from others.

    Attributes
    ----------
    directory : Path
        Has ``membership.parquet`` and ``membership.html``.
    threat : ThreatModel
        What the server has beside the messages, for all methods together: nothing, or what shadow
        federations and an active server need. That an example is a candidate is the question, not
        knowledge.
    rows : list[dict]
        One a candidate of a client: node_id, member, index (in the training split of members, in
        the test split of others), and a score a method.
    """

    directory: Path
    threat: ThreatModel
    rows: list[dict[str, Any]]

    @property
    def methods(self) -> list[str]:
        """The methods that could be used."""
        return [name for name in METHODS if name in self.rows[0]]

    def threat_of(self, method: str) -> ThreatModel:
        """Return what a method needs to know."""
        if method == ACTIVE:
            return ACTIVE_THREAT
        return ThreatModel() if method in SCORES else SHADOW_THREAT

    def figures(self, method: str, node: int | None = None) -> dict[str, Interval]:
        """Return the AUROC and the true-positive rates of a method.

        Parameters
        ----------
        method : str
            One of :attr:`methods`.
        node : int, optional
            The client; by default the candidates of all, at one threshold.
        """
        chosen = [row for row in self.rows if node is None or row["node_id"] == node]
        members = [row[method] for row in chosen if row["member"]]
        others = [row[method] for row in chosen if not row["member"]]
        found = {"AUROC": auroc(members, others)}
        return found | {
            f"TPR at {rate:.1%}": found_at(members, others, rate) for rate in FALSE_RATES
        }

    def table(self) -> Table:
        """Return the figures of all candidates, and those of each client."""
        both = self.tables()
        rows = [row for table in both for row in table.rows]
        return Table(both[0].title, both[0].header, rows, both[0].note)

    def tables(self) -> tuple[Table, Table]:
        """Return the figures of all candidates at one threshold, and of each client at its own.

        Beside the rates is the least false-positive rate that so many others can show.
        """
        names = list(self.figures(self.methods[0]))
        header = ["node", "method", *names, "least FPR"]
        rows: dict[int | None, list[list[Cell]]] = {}
        for node in (None, *sorted({row["node_id"] for row in self.rows})):
            others = [
                row for row in self.rows if not row["member"] and node in (None, row["node_id"])
            ]
            who = "all" if node is None else str(node)
            for method in self.methods:
                found = self.figures(method, node)
                cells: list[Cell] = [who, method, *(_shown(found[name]) for name in names)]
                rows.setdefault(node, []).append([*cells, f"{1 / len(others):.2g}"])
        count = sum(row["member"] for row in self.rows)
        title = f"membership of {count} members and {len(self.rows) - count} others"
        threats: dict[str, list[str]] = {}
        for method in self.methods:
            threats.setdefault(str(self.threat_of(method)), []).append(method)
        about = [f"{', '.join(methods)}: {threat}" for threat, methods in threats.items()]
        note = about[0].partition(": ")[2] if len(about) == 1 else "; ".join(about)
        of_clients = [row for node, some in rows.items() if node is not None for row in some]
        return Table(title, header, rows[None], note), Table(title, header, of_clients, note)


def run_membership(
    run_directory: Path,
    *,
    attack: Sequence[Attack] = (),
    shadows: ShadowSettings | None = None,
    ascent: float = ASCENT,
    candidates: int = CANDIDATES,
    same_classes: bool = False,
    seed: int = 0,
    out: Path | None = None,
    progress: Progress = ignore_progress,
    ask: Ask = refuse,
) -> MembershipRun:
    """Infer membership from all captured updates of a run, client by client.

    Parameters
    ----------
    run_directory : Path
        A run of an experiment with ``[capture]``.
    attack : Sequence of "lira", "rmia" and "active"
        The first two need shadow federations, which are run on Ray and kept in
        ``RUN_DIR/attacks/shadows``. An active server sends each client one more model. The passive
        scores are always there.
    shadows : ShadowSettings, optional
        How many shadow federations, and the attacks' settings.
    ascent : float
        How far the active server moves the model, by its norm: 0 to 10.
    candidates : int
        Members of each client that are asked about, at most; as many test examples, which no
        client has, are asked about beside them.
    same_classes : bool
        Whether those have the classes of the members, as far as there are enough.
    seed : int
        Draws the candidates, and the shadow federations.
    out : Path, optional
        By default the first free ``RUN_DIR/attacks/membership[-n]``.
    progress : callable
        Told how many shadow federations of how many are there.
    ask : callable
        Whether code that the run names may be imported (:mod:`atoll.user_code.trust`).

    Raises
    ------
    AtollError
        If no client's update was captured, or an attack's settings are out of range.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import run_membership
    >>> found = run_membership(Path("runs/quickstart"))  # doctest: +SKIP
    >>> found.figures("cosine")["TPR at 1.0%"].value  # doctest: +SKIP
    """
    unknown = [name for name in attack if name not in ATTACKS]
    if unknown:
        raise AttackError(f"attack = {unknown[0]!r}: expected {', '.join(ATTACKS)}")
    if not 0.0 <= ascent <= 10.0:
        raise AttackError(f"ascent = {ascent:g}: expected 0 to 10")
    settings = shadows or ShadowSettings()
    settings.check()
    check_run_directory(run_directory)
    captures = [read_capture(path) for path in find_captures(run_directory)]
    captures = [capture for capture in captures if capture.node_id != SUM]
    if not captures:
        raise CaptureError(
            f"{run_directory}: no client's update was captured; expected an experiment with "
            "[capture], and a strategy without secure aggregation"
        )
    with admitted(uses_of(run_directory, captures), run_directory, ask):
        dataset = dataset_of(run_directory)
        nodes = sorted({capture.node_id for capture in captures})
        suspects = [
            _suspect(captures, node, dataset, candidates, derive_seed(seed, node), same_classes)
            for node in nodes
        ]
        scores = [_passive(suspect, captures) for suspect in suspects]
        more = []
        with_shadows: list[ShadowAttack] = [name for name in attack if name != "active"]
        if with_shadows:
            given = (suspects, dataset, with_shadows, settings, seed, progress)
            more.append(shadow_scores(run_directory, *given))
        if "active" in attack:
            more.append(active_scores(run_directory, suspects, ascent, seed))
        for found in more:
            scores = [{**own, **other} for own, other in zip(scores, found, strict=True)]
    shared = set.intersection(*(set(own) for own in scores))
    rows = [
        row
        for suspect, own in zip(suspects, scores, strict=True)
        for row in _rows(suspect, {name: own[name] for name in METHODS if name in shared})
    ]
    directory = new_run_directory(out, run_directory / ATTACKS_FOLDER, "membership")
    write_rows(directory / ROWS, rows)
    threat = ThreatModel()
    if with_shadows:
        threat = threat.with_(SHADOW_THREAT.capabilities)
    if "active" in attack:
        threat = threat.with_(ACTIVE_THREAT.capabilities)
    result = MembershipRun(directory, threat, rows)
    write_membership_report(
        directory,
        rows,
        {method: str(result.threat_of(method)) for method in result.methods},
        result.tables(),
        run=run_directory.resolve().name,
    )
    return result


def _suspect(
    captures: Sequence[Capture],
    node: int,
    dataset: Dataset,
    count: int,
    seed: int,
    same_classes: bool,
) -> Suspect:
    """Return a client with its candidates: examples of its own, and of the test split."""
    own = [capture for capture in captures if capture.node_id == node]
    assert own[0].directory is not None
    truth = read_truth(own[0].directory)
    generator = np.random.default_rng(seed)
    asked = min(count, len(truth.labels), len(dataset.test))
    inside = np.sort(generator.choice(len(truth.labels), asked, replace=False))
    if same_classes:
        outside = of_classes(truth.labels[inside].numpy(), dataset, generator)
    else:
        outside = np.sort(generator.choice(len(dataset.test), asked, replace=False))
    inputs = own[0].federation.inputs
    examples = Candidates(
        torch.cat(
            [
                inputs.to_tensor(truth.inputs.numpy()[inside]),
                inputs.to_tensor(dataset.test.inputs[outside]),
            ]
        ),
        torch.cat([truth.labels[inside], torch.from_numpy(np.array(dataset.test.labels[outside]))]),
    )
    rounds = tuple(capture.server_round for capture in own)
    return Suspect(Asked(node, rounds, truth.indices[inside].numpy(), outside), own, examples)


def of_classes(
    labels: NDArray[np.int64], dataset: Dataset, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return test examples of these classes; those that are missing are of any."""
    if not isinstance(dataset.task, Classification):
        raise AttackError(
            f"same-classes: the task of {dataset.name} is {dataset.task.kind}; expected classes"
        )
    order = generator.permutation(len(dataset.test))
    of_order = dataset.test.labels[order]
    chosen = [
        order[of_order == label][:wanted]
        for label, wanted in zip(*np.unique(labels, return_counts=True), strict=True)
    ]
    found = np.concatenate(chosen)
    rest = order[~np.isin(order, found)]
    return np.sort(np.concatenate([found, rest[: len(labels) - len(found)]]))


def _passive(suspect: Suspect, captures: Sequence[Capture]) -> Scores:
    """Return the scores that need nothing but the messages."""
    rounds = []
    for capture in suspect.captures:
        others = [
            other
            for other in captures
            if other.server_round == capture.server_round and other.node_id != capture.node_id
        ]
        with faults_of(capture):
            rounds.append(signals_of([capture, *others], suspect.candidates))
    return {name: values.double().numpy() for name, values in _scores(rounds).items()}


def _rows(suspect: Suspect, scores: Scores) -> list[dict[str, Any]]:
    """Return the candidates of a client with their scores."""
    asked = suspect.asked
    indices = [*asked.members.tolist(), *asked.others.tolist()]
    return [
        {"node_id": asked.node_id, "member": place < len(asked.members), "index": index}
        | {name: float(values[place]) for name, values in scores.items()}
        for place, index in enumerate(indices)
    ]


def _scores(rounds: Sequence[RoundSignals]) -> Mapping[str, torch.Tensor]:
    """Return the scores of all methods that have what they need."""
    has_others = all(each.cosines.shape[1] > 2 for each in rounds)
    return {name: score(rounds) for name, score in SCORES.items() if has_others or name != "FedMIA"}


def _shown(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
