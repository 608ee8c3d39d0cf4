"""The report's figures, made from a run directory's tables."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atoll.lazy import LazyModule
from atoll.platform.callbacks.metric_names import (
    CURVE_LABELS,
    MAIN,
    SERVER,
    SERVER_ACCURACY,
    column_of,
    group_of,
    label_of,
)

go = LazyModule("plotly.graph_objects")

MAX_CLIENTS_SHOWN = 200
COLORS = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c")


def all_figures(
    rounds: pa.Table,
    clients: pa.Table,
    partition: Mapping[str, Any] | None,
    layers: pa.Table | None = None,
) -> list[tuple[str, Any]]:
    """Return the report's figures with their titles, those that there are data for."""
    makers: list[tuple[str, Callable[[], Any]]] = [
        ("Accuracy", lambda: _curves(rounds, "accuracy", "accuracy")),
        ("Loss", lambda: _curves(rounds, "loss", "loss")),
        ("Accuracy by inference, and of baselines", lambda: _ways_of_inference(rounds)),
        ("Accuracy with an exit after each layer", lambda: _exits(rounds)),
        ("Loss of each layer", lambda: _layer_losses(layers)),
        ("Accuracy per class, last evaluation", lambda: _per_class(rounds, partition)),
        ("Clients in the last round", lambda: _client_distribution(clients)),
        ("Seconds a round", lambda: _lines({"seconds": column(rounds, "seconds")}, "s")),
        ("Seconds of work per worker", lambda: _worker_load(clients)),
        ("Examples of each class, per client", lambda: _histogram(partition)),
    ]
    made = ((title, maker()) for title, maker in makers)
    return [(title, drawn) for title, drawn in made if drawn is not None]


def figure(traces: Sequence[Any], y_title: str, x_title: str = "round") -> Any:
    """Return a figure in the report's style."""
    return go.Figure(
        data=[literal(trace) for trace in traces],
        layout={
            "template": "simple_white",
            "colorway": COLORS,
            "height": 320,
            "margin": {"l": 56, "r": 16, "t": 16, "b": 44},
            "xaxis": {"title": x_title},
            "yaxis": {"title": y_title},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "y": 1.12},
        },
    )


def literal(trace: Any) -> Any:
    """Return a trace whose names show as they are: Plotly takes tags in them for its own."""
    for key in ("name", "x", "y", "text", "hovertext"):
        value = getattr(trace, key, None)
        if isinstance(value, str):
            trace[key] = html.escape(value, quote=False)
        elif isinstance(value, list | tuple):
            trace[key] = [
                html.escape(each, quote=False) if isinstance(each, str) else each for each in value
            ]
    return trace


def column(rounds: pa.Table, name: str) -> tuple[list[Any], list[Any]]:
    """Return the rounds in which a column has a value, and the values."""
    values = rounds.column(name).to_pylist()
    pairs = [
        (r, v) for r, v in zip(rounds.column("round").to_pylist(), values, strict=True) if v == v
    ]
    pairs = [(r, v) for r, v in pairs if v is not None]
    return [r for r, _ in pairs], [v for _, v in pairs]


def _curves(rounds: pa.Table, suffix: str, y_title: str) -> Any:
    series: dict[str, tuple[list[Any], list[Any]]] = {}
    for group, label in CURVE_LABELS.items():
        for name in rounds.column_names:
            is_scalar = pa.types.is_floating(rounds.schema.field(name).type)
            if name.startswith(f"{group}_") and name.endswith(suffix) and is_scalar:
                series.setdefault(label, column(rounds, name))
    return _lines(series, y_title) if series else None


def _lines(series: Mapping[str, tuple[list[Any], list[Any]]], y_title: str) -> Any:
    traces = [go.Scatter(x=x, y=y, name=name, mode="lines") for name, (x, y) in series.items()]
    return figure(traces, y_title)


def _ways_of_inference(rounds: pa.Table) -> Any:
    """Return the curves of several accuracies on the server, where there are several."""
    suffix = "_accuracy"
    names = [
        name
        for name in rounds.column_names
        if group_of(name)[0] == SERVER
        and name.endswith(suffix)
        and name != column_of(SERVER, "validation_accuracy")
        and pa.types.is_floating(rounds.schema.field(name).type)
    ]
    if len(names) < 2:
        return None
    labels = {name: label_of(group_of(name)[1].removesuffix(suffix)) for name in names}
    labels[SERVER_ACCURACY] = "noise-free"
    return _lines({labels[name]: column(rounds, name) for name in names}, "accuracy")


def _exits(rounds: pa.Table) -> Any:
    name = column_of(SERVER, "exits_accuracy")
    found = [v for v in rounds.column(name).to_pylist() if v] if name in rounds.column_names else []
    if not found:
        return None
    places = list(range(1, len(found[-1]) + 1))
    return figure([go.Bar(x=places, y=found[-1])], "accuracy", "layers used")


def _layer_losses(layers: pa.Table | None) -> Any:
    if layers is None or not len(layers):
        return None
    series: dict[str, tuple[list[Any], list[Any]]] = {}
    for row in layers.select(["layer", "round", "loss"]).to_pylist():
        if row["loss"] is not None and row["layer"].startswith("block-"):
            rounds, losses = series.setdefault(row["layer"], ([], []))
            rounds.append(row["round"])
            losses.append(row["loss"])
    return _lines(dict(sorted(series.items())), "squared error") if series else None


def _per_class(rounds: pa.Table, partition: Mapping[str, Any] | None) -> Any:
    column_name = column_of(SERVER, "per_class_accuracy")
    if column_name not in rounds.column_names:
        return None
    evaluated = [v for v in rounds.column(column_name).to_pylist() if v]
    if not evaluated:
        return None
    names = (partition or {}).get("classes") or [str(i) for i in range(len(evaluated[-1]))]
    return figure([go.Bar(x=names, y=evaluated[-1])], "accuracy", "class")


def _client_distribution(clients: pa.Table) -> Any:
    if not len(clients):
        return None
    last = clients.filter(pc.field("round") == pc.max(clients.column("round")))
    traces = []
    for phase in sorted(set(last.column("phase").to_pylist())):
        rows = last.filter(pc.field("phase") == phase)
        for name in MAIN:
            values = [v for v in rows.column(name).to_pylist() if v is not None]
            if values:
                traces.append(go.Box(x=values, name=f"{phase} {name}", boxpoints="outliers"))
    return figure(traces, "", "value") if traces else None


def _worker_load(clients: pa.Table) -> Any:
    if not len(clients):
        return None
    load: dict[str, float] = {}
    for worker, seconds in zip(
        clients.column("worker").to_pylist(), clients.column("seconds").to_pylist(), strict=True
    ):
        if worker is not None and seconds is not None:
            load[worker] = load.get(worker, 0.0) + seconds
    names = sorted(load)
    return figure([go.Bar(x=names, y=[load[n] for n in names])], "s", "worker") if load else None


def _histogram(partition: Mapping[str, Any] | None) -> Any:
    if partition is None:
        return None
    counts = partition["histogram"][:MAX_CLIENTS_SHOWN]
    heat = go.Heatmap(
        z=[list(row) for row in zip(*counts, strict=True)],
        x=partition["clients"][:MAX_CLIENTS_SHOWN],
        y=partition["classes"],
        colorscale="Teal",
        colorbar={"title": "examples"},
    )
    return figure([heat], "class", "client (partition)")
