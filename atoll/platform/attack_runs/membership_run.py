"""``atoll membership``: who of some candidates was a client's, from a run's captures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atoll.attacks.captures.capture import SUM, Capture, faults_of
from atoll.attacks.captures.capture_files import find_captures, read_capture, read_truth
from atoll.attacks.membership.candidate_signals import Candidates, RoundSignals, signals_of
from atoll.attacks.membership.operating_points import Interval, auroc, found_at
from atoll.attacks.membership.passive_scores import SCORES
from atoll.attacks.threat.capabilities import ThreatModel
from atoll.clients.data.dataset import Dataset
from atoll.errors import CaptureError
from atoll.platform.attack_runs.attack_rows import write_rows
from atoll.platform.attack_runs.attack_run import ATTACKS_FOLDER, dataset_of, uses_of
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.run_directory.run_files import check_run_directory
from atoll.platform.runs.session import new_run_directory
from atoll.randomness import derive_seed
from atoll.trust import Ask, admitted, refuse

ROWS = "membership.parquet"
# A client's examples that are candidates, and as many others.
CANDIDATES = 200
FALSE_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class MembershipRun:
    """Scores of candidates, and how well they tell members from others.

    Attributes
    ----------
    directory : Path
        Has ``membership.parquet``.
    threat : ThreatModel
        What the server knows beside the messages: nothing. That an example is a candidate is the
        question, not knowledge.
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
        return [name for name in SCORES if name in self.rows[0]]

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
        """Return the figures of all candidates, and the AUROC of each client."""
        names = list(self.figures(self.methods[0]))
        rows: list[list[Cell]] = []
        for node in (None, *sorted({row["node_id"] for row in self.rows})):
            for method in self.methods:
                found = self.figures(method, node)
                who = "all" if node is None else str(node)
                rows.append([who, method, *(_shown(found[name]) for name in names)])
        count = sum(row["member"] for row in self.rows)
        title = f"membership of {count} members and {len(self.rows) - count} others"
        return Table(title, ["node", "method", *names], rows, str(self.threat))


def run_membership(
    run_directory: Path,
    *,
    candidates: int = CANDIDATES,
    seed: int = 0,
    out: Path | None = None,
    ask: Ask = refuse,
) -> MembershipRun:
    """Infer membership from all captured updates of a run, client by client.

    Parameters
    ----------
    run_directory : Path
        A run of an experiment with ``[capture]``.
    candidates : int
        Members of each client that are asked about, at most; as many test examples, which no
        client has, are asked about beside them.
    seed : int
        Draws the candidates.
    out : Path, optional
        By default the first free ``RUN_DIR/attacks/membership[-n]``.
    ask : callable
        Whether code that the run names may be imported (:mod:`atoll.trust`).

    Raises
    ------
    AtollError
        If no client's update was captured.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import run_membership
    >>> found = run_membership(Path("runs/quickstart"))  # doctest: +SKIP
    >>> found.figures("cosine")["TPR at 1.0%"].value  # doctest: +SKIP
    """
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
        rows = [
            row
            for node in nodes
            for row in _rows(captures, node, dataset, candidates, derive_seed(seed, node))
        ]
    shared = set.intersection(*(set(row) for row in rows))
    rows = [{key: value for key, value in row.items() if key in shared} for row in rows]
    directory = new_run_directory(out, run_directory / ATTACKS_FOLDER, "membership")
    write_rows(directory / ROWS, rows)
    return MembershipRun(directory, ThreatModel(), rows)


def _rows(
    captures: Sequence[Capture], node: int, dataset: Dataset, count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the candidates of a client with their scores."""
    own = [capture for capture in captures if capture.node_id == node]
    assert own[0].directory is not None
    truth = read_truth(own[0].directory)
    generator = np.random.default_rng(seed)
    asked = min(count, len(truth.labels), len(dataset.test))
    inside = np.sort(generator.choice(len(truth.labels), asked, replace=False))
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
    rounds = []
    for capture in own:
        others = [
            other
            for other in captures
            if other.server_round == capture.server_round and other.node_id != node
        ]
        with faults_of(capture):
            rounds.append(signals_of([capture, *others], examples))
    scores = _scores(rounds)
    indices = [*truth.indices[inside].tolist(), *outside.tolist()]
    for place, index in enumerate(indices):
        about = {"node_id": node, "member": place < asked, "index": index}
        yield about | {name: float(values[place]) for name, values in scores.items()}


def _scores(rounds: Sequence[RoundSignals]) -> Mapping[str, torch.Tensor]:
    """Return the scores of all methods that have what they need."""
    has_others = all(each.cosines.shape[1] > 2 for each in rounds)
    return {name: score(rounds) for name, score in SCORES.items() if has_others or name != "FedMIA"}


def _shown(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
