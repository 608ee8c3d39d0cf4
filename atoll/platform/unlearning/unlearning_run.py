"""``atoll unlearn``: clients of a run unlearned, and the model before and after compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.extras import require
from atoll.files.recorded import write_recorded_json
from atoll.platform.callbacks.metric_names import ATTACK_SUCCESS, SERVER, column_of
from atoll.platform.callbacks.observers import Observer
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.unlearning.settings import UnlearnSettings
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.run_directory.run_config import load_run_config
from atoll.platform.run_directory.run_files import (
    CONFIG,
    check_run_directory,
    read_config,
    read_result,
)
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run
from atoll.platform.runs.unlearning import last_model
from atoll.platform.unlearning.experiment import unlearning_experiment
from atoll.platform.unlearning.witness import asked_of, figures_of
from atoll.user_code.trust import Ask, admitted, refuse, uses_in

UNLEARNING = "unlearning.json"
# A client's examples that membership inference is asked about, and as many others.
CANDIDATES = 200


@dataclass(frozen=True)
class UnlearningResult:
    """Result of unlearning.

    Attributes
    ----------
    directory : Path
        The run directory; ``unlearning.json`` in it has the same figures.
    method : str
        How.
    nodes : tuple[int, ...]
        Who left.
    rounds, rounds_before : int
        Rounds of the unlearning, and of the run whose model it is of.
    before, after : dict[str, float]
        Figures of the model that was unlearned, and of the one that came of it: the task's metrics
        on test examples and on those of the clients that left, membership inference of these, and
        a poison's success where the run had one.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import UnlearningResult
    >>> figures = {"test accuracy": 0.9}, {"test accuracy": 0.8}
    >>> result = UnlearningResult(Path("runs/gone"), "retrain", (3,), 10, 10, *figures)
    >>> [row[0] for row in result.table().rows]
    ['test accuracy', 'rounds']
    """

    directory: Path
    method: str
    nodes: tuple[int, ...]
    rounds: int
    rounds_before: int
    before: dict[str, float]
    after: dict[str, float]

    def table(self) -> Table:
        """Return the figures before and after."""
        rows: list[list[Cell]] = [
            [name, value, self.after[name]] for name, value in self.before.items()
        ]
        rows.append(["rounds", self.rounds_before, self.rounds])
        who = ", ".join(map(str, self.nodes))
        title = f"{self.method} of client{'s' if len(self.nodes) > 1 else ''} {who}"
        return Table(title, ["figure", "before", "after"], rows)


def run_unlearning(
    run_directory: Path,
    nodes: Sequence[int],
    method: str,
    *,
    rounds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    candidates: int = CANDIDATES,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    observers: Callable[[Path], list[Observer]] | None = None,
    ask: Ask = refuse,
) -> UnlearningResult:
    """Unlearn clients of a run, and ask the models before and after about their examples.

    Parameters
    ----------
    run_directory : Path
        A finished run of an experiment.
    nodes : Sequence[int]
        Node numbers of the clients that leave, from 1.
    method : "retrain", "fine-tune", "gradient-ascent" or "projected-ascent"
        How.
    rounds : int, optional
        Rounds of repair by the others, of "retrain" all rounds; by default 3, of "retrain" the
        run's.
    settings : Mapping, optional
        Other keys of ``[unlearn]``: ``ascent_learning_rate``, ``stop``, ``radius``, ...
    candidates : int
        Examples of the clients that left that membership inference is asked about, at most; as
        many test examples of the same classes are asked about beside them.
    seed : int
        Draws these. The run has the seed of the run that it is of.
    out : Path, optional
        The run directory; by default a new one beside ``run_directory``.
    resume : bool
        Whether to continue an interrupted run in ``out``.
    workers : int, optional
        Worker processes; by default as the run had.
    observers : callable, optional
        As of :func:`atoll.run`.
    ask : callable
        Whether code that the run names may be imported (:mod:`atoll.user_code.trust`).

    Raises
    ------
    AtollError
        If the run cannot be unlearned so; before anything starts, where that can be known.

    Examples
    --------
    >>> from atoll import run_unlearning
    >>> gone = run_unlearning(Path("runs/mine"), [3], "projected-ascent")  # doctest: +SKIP
    >>> gone.after["erased accuracy"]  # doctest: +SKIP
    """
    require("scipy", what="atoll unlearn")
    check_run_directory(run_directory)
    with admitted(uses_in(read_config(run_directory)), run_directory / CONFIG, ask):
        experiment = unlearning_experiment(
            run_directory, nodes, method, rounds, settings or {}, workers
        )
        done = run(experiment, out=out, resume=resume, observers=observers)
        result = compare_models(run_directory, done.directory, candidates=candidates, seed=seed)
    write_unlearning(result)
    return result


def compare_models(
    run_directory: Path, directory: Path, *, candidates: int = CANDIDATES, seed: int = 0
) -> UnlearningResult:
    """Ask the models of a run and of its unlearning about the examples of who left.

    Parameters
    ----------
    run_directory, directory : Path
        The run, and its unlearning; both have ended.
    candidates, seed : int
        As of :func:`run_unlearning`.
    """
    before, after = load_run_config(run_directory), load_run_config(directory)
    unlearn = after.unlearn
    assert isinstance(unlearn, UnlearnSettings)
    federation = prepare(after)
    asked = asked_of(after, federation, candidates, seed)
    figures = [
        figures_of(before, prepare(before), last_model(run_directory), asked),
        figures_of(after, federation, last_model(directory), asked),
    ]
    summaries = [read_result(run_directory) or {}, read_result(directory) or {}]
    for found, summary, experiment in zip(figures, summaries, (before, after), strict=True):
        found |= _attack_success(summary, experiment)
    shared = [name for name in figures[0] if name in figures[1]]
    return UnlearningResult(
        directory,
        unlearn.method,
        tuple(sorted(set(unlearn.nodes))),
        int(summaries[1]["rounds"]),
        int(summaries[0]["rounds"]),
        {name: figures[0][name] for name in shared},
        {name: figures[1][name] for name in shared},
    )


def write_unlearning(result: UnlearningResult) -> None:
    """Write ``unlearning.json`` into the run directory of an unlearning."""
    figures = {name: value for name, value in vars(result).items() if name != "directory"}
    write_recorded_json(result.directory / UNLEARNING, {**figures, "nodes": list(result.nodes)})


def _attack_success(summary: Mapping[str, Any], experiment: Experiment) -> dict[str, float]:
    """Return the success of a run's poison after its last round, if it has one."""
    found = summary.get("metrics", {}).get(column_of(SERVER, ATTACK_SUCCESS))
    return {} if experiment.poison is None or found is None else {"attack success": float(found)}
