"""From a sweep's finished trials to the table that a paper prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atoll.credentials import without_credentials
from atoll.errors import RunDirectoryError
from atoll.files.recorded import write_recorded_rows, write_recorded_text
from atoll.platform.callbacks.metric_names import (
    SERVER,
    SERVER_ACCURACY,
    domain_metric,
    group_of,
    main_metric,
)
from atoll.platform.reports.tables import Cell, Estimate, Table, as_markdown, as_text
from atoll.platform.run_directory.run_files import (
    PARTITION,
    ROUND_ONLY,
    ROUNDS,
    read_partition,
    read_rounds_table,
)
from atoll.platform.sweeps.model_selection import Choice, Curve, choose
from atoll.platform.sweeps.sweep_plan import Trial

RESULTS, CURVES = "results.parquet", "curves.parquet"
# The name under which data sets without domains are reported.
WHOLE = "test"
UNIT = "{}, mean ± standard error over seeds"
# In tables these are in per cent.
SHARES = ("accuracy", "auroc", "auprc", "f1")


@dataclass(frozen=True)
class Figure:
    """One cell of a table.

    Attributes
    ----------
    rule, method : str
        The rule of model selection, and the method.
    target : str
        The held-out domains, joined by "+"; empty if none was.
    domain : str
        What was evaluated on.
    role : str
        "held out", "training", or "probe" (a domain that is only ever evaluated).
    metric : str
        The task's main metric: "accuracy".
    mean, standard_error : float
        Of the metric over seeds; NaN is the standard error of a single seed.
    seeds : int
        How many.
    hyperparameters : str
        What the rule chose, as JSON.
    rounds : list[int]
        Which round it chose, by seed.
    """

    rule: str
    method: str
    target: str
    domain: str
    role: str
    metric: str
    mean: float
    standard_error: float
    seeds: int
    hyperparameters: str
    rounds: list[int]


def read_curve(trial: Trial, directory: Path, *, is_whole: bool = True) -> Curve:
    """Read a trial's main metric from its run directory; ``is_whole`` unless it was stopped early.

    Raises
    ------
    RunDirectoryError
        If a file is missing or cannot be read.
    """
    table = read_rounds_table(directory / ROUNDS, ROUND_ONLY)
    main = main_metric(name for name in table.column_names if group_of(name)[0] == SERVER)
    if main is None:
        # Stopped before the first evaluation.
        main = SERVER_ACCURACY
        table = table.append_column(main, pa.nulls(len(table), pa.float64()))
    domains = read_partition(directory)
    if domains is None:
        raise RunDirectoryError(f"{directory}: has no {PARTITION}")
    columns = {name: domain_metric(main, name) for name in domains["domains"]}
    columns = {n: c for n, c in columns.items() if c in table.column_names}
    training = tuple(name for name in columns if name in domains["training_domains"])
    if not columns:
        columns, training = {WHOLE: main}, (WHOLE,)
    is_evaluated = np.array(table.column(main).is_valid().to_pylist())
    return Curve(
        trial.method,
        without_credentials(trial.hyperparameters),
        trial.seed,
        trial.held_out,
        training,
        table.column("round").to_numpy()[is_evaluated],
        {name: table.column(c).to_numpy()[is_evaluated] for name, c in columns.items()},
        group_of(main)[1],
        is_whole,
    )


def figures_of(trials: Sequence[Trial], curves: Sequence[Curve]) -> list[Figure]:
    """Apply every rule to every method and held-out domain.

    Parameters
    ----------
    trials : Sequence[Trial]
        The finished trials.
    curves : Sequence[Curve]
        Their metrics, in the same order.
    """
    both = zip(trials, curves, strict=True)
    # A trial may have been stopped before its first evaluation.
    reported = [c for t, c in both if not t.is_validation and len(c.rounds)]
    figures: list[Figure] = []
    for method, target in dict.fromkeys((curve.method, curve.held_out) for curve in reported):
        own = [c for c in reported if (c.method, c.held_out) == (method, target)]
        others = [c for c in curves if c.method == method and len(c.held_out) == len(target) + 1]
        for choice in choose(own, others):
            figures += _figures(choice)
    return figures


def _figures(choice: Choice) -> Iterable[Figure]:
    first = choice.curves[0]
    for domain in first.values:
        role = "training" if domain in first.training else "probe"
        values = choice.values_on(domain)
        count = len(values)
        yield Figure(
            rule=choice.rule,
            method=first.method,
            target="+".join(first.held_out),
            domain=domain,
            role="held out" if domain in first.held_out else role,
            metric=first.metric,
            mean=float(values.mean()),
            standard_error=float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan,
            seeds=count,
            hyperparameters=first.hyperparameters,
            rounds=choice.rounds,
        )


def write_results(directory: Path, trials: Sequence[Trial], curves: Sequence[Curve]) -> str:
    """Write a sweep's tables, and return their text.

    Parameters
    ----------
    directory : Path
        Gets ``results.parquet``, ``results.txt``, ``results.md`` and ``curves.parquet``.
    trials : Sequence[Trial]
        The trials that have ended.
    curves : Sequence[Curve]
        Their metrics, in their order.
    """
    figures = figures_of(trials, curves)
    write_recorded_rows(directory / CURVES, list(_curve_rows(curves)))
    write_recorded_rows(directory / RESULTS, [vars(figure) for figure in figures])
    tables = tables_of(figures)
    chosen = _chosen(figures)
    write_recorded_text(directory / "results.md", "\n".join(map(as_markdown, tables)) + chosen)
    text = "\n".join(map(as_text, tables)) + chosen
    write_recorded_text(directory / "results.txt", text)
    return text


def _curve_rows(curves: Sequence[Curve]) -> Iterable[dict[str, Any]]:
    for curve in curves:
        for domain, values in curve.values.items():
            for server_round, value in zip(curve.rounds, values, strict=True):
                yield {
                    "method": curve.method,
                    "hyperparameters": curve.hyperparameters,
                    "seed": curve.seed,
                    "held_out": "+".join(curve.held_out),
                    "domain": domain,
                    "round": int(server_round),
                    "metric": curve.metric,
                    "value": float(value),
                }


def _chosen(figures: Sequence[Figure]) -> str:
    """Return a line for each choice of hyper-parameters; nothing where there was no choice."""
    lines = []
    for figure in figures:
        chosen = json.loads(figure.hyperparameters)
        if chosen:
            held_out = f", held out {figure.target}" if figure.target else ""
            values = ", ".join(f"{key} = {value}" for key, value in chosen.items())
            lines.append(f"- {figure.rule}, {figure.method}{held_out}: {values}")
    return "\nchosen hyper-parameters:\n" + "\n".join(dict.fromkeys(lines)) + "\n" if lines else ""


def tables_of(figures: Sequence[Figure]) -> list[Table]:
    """Return a table a rule.

    With one set of held-out domains, columns are all domains; with several, each is the held-out
    domains' own figure, and the last is their mean.
    """
    targets = list(dict.fromkeys(figure.target for figure in figures))
    tables = []
    for rule in dict.fromkeys(figure.rule for figure in figures):
        own = [figure for figure in figures if figure.rule == rule]
        shown = own if len(targets) == 1 else [f for f in own if f.role == "held out"]
        shown.sort(key=lambda f: ("held out", "probe", "training").index(f.role))
        columns = list(dict.fromkeys((f.target, f.domain, f.role) for f in shown))
        columns.sort(key=lambda column: targets.index(column[0]))
        with_mean = len(columns) > 1 and len(targets) > 1
        header = ["method", *(f"{domain} ({role})" for _, domain, role in columns)]
        rows: list[list[Cell]] = []
        for method in dict.fromkeys(figure.method for figure in own):
            by_column = {(f.target, f.domain, f.role): f for f in shown if f.method == method}
            cells: list[Cell] = [_cell(by_column.get(column)) for column in columns]
            if with_mean:
                cells.append(_mean_cell([by_column.get(column) for column in columns]))
            rows.append([method, *cells])
        tables.append(Table(rule, [*header, *(["mean"] if with_mean else [])], rows, _unit(own[0])))
    return tables


def _cell(figure: Figure | None) -> Estimate | None:
    if figure is None:
        return None
    return Estimate(figure.mean, figure.seeds, figure.standard_error, **_shown(figure), of="seed")


def _mean_cell(figures: Sequence[Figure | None]) -> Estimate | None:
    known = [figure.mean for figure in figures if figure is not None]
    if len(known) < len(figures):
        return None
    first = next(figure for figure in figures if figure is not None)
    return Estimate(sum(known) / len(known), len(known), **_shown(first))


def _unit(figure: Figure) -> str:
    name = figure.metric.replace("_", " ")
    return UNIT.format(f"{name} in %" if figure.metric in SHARES else name)


def _shown(figure: Figure) -> dict[str, Any]:
    if figure.metric in SHARES:
        return {"digits": 1, "scale": 100.0}
    return {"digits": 4, "scale": 1.0}
