"""The report of a run: one HTML file that opens without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import tomli_w

from atoll.credentials import tables_without_credentials
from atoll.files.atomic import write_text
from atoll.platform.callbacks.metric_names import EPSILON_SPENT, is_main, label_of
from atoll.platform.reports.figures.client_figures import (
    clients_curves,
    curve_figures,
    last_round_figures,
)
from atoll.platform.reports.figures.domain_figures import domain_figures, statistic_rows
from atoll.platform.reports.figures.drawing import Figure
from atoll.platform.reports.figures.personal_figures import personal_figures, personal_rows
from atoll.platform.reports.figures.privacy_figures import privacy_figures
from atoll.platform.reports.figures.run_figures import all_figures
from atoll.platform.reports.page import render
from atoll.platform.reports.run_head import facts, privacy_of
from atoll.platform.run_directory.run_files import (
    CLIENT_SCHEMA,
    CLIENTS,
    LAYER_SCHEMA,
    LAYERS,
    check_run_directory,
    read_config,
    read_confusion,
    read_engine,
    read_partition,
    read_result,
    read_rounds,
    read_rows,
)

REPORT = "report.html"
MAX_FAULTS = 200
# Smaller figures are shown with an exponent: a delta is no 0.0000.
LEAST_SHOWN = 1e-3


def write_report(directory: Path, result: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` of a run, finished or not.

    Parameters
    ----------
    directory : Path
        The run directory; nothing else is read.
    result : Mapping, optional
        What ``result.json`` is about to hold; by default what is there.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    RunDirectoryError
        If the folder is not a run directory, or a file in it cannot be read.
    """
    check_run_directory(directory)
    config = tables_without_credentials(read_config(directory))
    result = read_result(directory) if result is None else result
    rounds = read_rounds(directory)
    clients = read_rows(directory / CLIENTS, CLIENT_SCHEMA)
    layers = read_rows(directory / LAYERS, LAYER_SCHEMA)
    partition = read_partition(directory)
    main: list[tuple[str, Figure]] = [
        *domain_figures(rounds, partition),
        *all_figures(rounds, clients, partition, layers, read_confusion(directory)),
        *personal_figures(clients),
        *privacy_figures(rounds, clients, privacy_of(config)),
        *last_round_figures(clients),
    ]
    of_clients = curve_figures(clients)
    faults = _failed_layers(layers) if len(layers) else _faults(clients)
    page = render(
        "report.html.jinja",
        kind="Atoll",
        figures=[*main, *of_clients],
        clients=clients_curves(clients),
        title=directory.resolve().name,
        headline=headline(directory, result or {}),
        facts=facts(config, read_engine(directory), rounds, clients),
        finished=result is not None,
        main_figures=range(len(main)),
        client_figures=range(len(main), len(main) + len(of_clients)),
        personal=personal_rows(clients),
        statistics=[
            [row.name, f"{row.up:,.0f}", f"{row.down:,.0f}", row.survives]
            for row in statistic_rows(rounds)
        ],
        members="layer" if len(layers) else "client",
        faults=[list(row.values()) for row in faults],
        reasons=[
            [count, reason] for reason, count in Counter(r["reason"] for r in faults).most_common()
        ],
        config=tomli_w.dumps(config),
    )
    write_text(directory / REPORT, page)
    return directory / REPORT


def headline(directory: Path, result: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return a run's main figures, named, as a person reads them; as :func:`write_report`."""
    rounds = read_rounds(directory)
    if result is None:
        result = read_result(directory) or {}
    figures: dict[str, str] = {"rounds": str(len(rounds))}
    if len(rounds):
        last = rounds.slice(len(rounds) - 1).to_pylist()[0]
        for key, value in last.items():
            if is_main(key) and isinstance(value, float):
                is_tiny = 0.0 < abs(value) < LEAST_SHOWN
                figures[label_of(key)] = f"{value:.3g}" if is_tiny else f"{value:.4f}"
        if last.get(EPSILON_SPENT) is not None:
            figures["epsilon spent"] = f"{last[EPSILON_SPENT]:.4g}"
    figures |= _of_members(directory)
    if "wall_seconds" in result:
        figures["seconds"] = f"{result['wall_seconds']:.1f}"
    if result.get("parameters_sha256"):
        figures["parameters sha256"] = result["parameters_sha256"]
    return figures


def _of_members(directory: Path) -> dict[str, str]:
    """Return how many clients there were and failed; of layer-wise training, which units did."""
    layers = read_rows(directory / LAYERS, LAYER_SCHEMA)
    if len(layers):
        failed = [row["node_id"] for row in _failed_layers(layers)]
        return {"failed layers": ", ".join(failed) or "none"}
    clients = read_rows(directory / CLIENTS, CLIENT_SCHEMA)
    errors = pc.sum(pc.equal(clients.column("status"), "error")).as_py() or 0
    return {
        "clients seen": str(len(set(clients.column("node_id").to_pylist()))),
        "client errors": str(errors),
    }


def _faults(clients: pa.Table) -> list[dict[str, Any]]:
    rows = clients.filter(pc.field("status") == "error").slice(0, MAX_FAULTS)
    chosen: list[dict[str, Any]] = rows.select(["round", "phase", "node_id", "reason"]).to_pylist()
    return chosen


def _failed_layers(layers: pa.Table) -> list[dict[str, Any]]:
    rows = layers.filter(pc.field("status") == "error").to_pylist()
    return [
        {
            "round": row["round"],
            "phase": "train",
            "node_id": row["layer"],
            "reason": row["reason"],
        }
        for row in rows
    ]
