"""The report's figures, made from a run directory's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from atoll.platform.callbacks.metric_names import (
    CURVE_LABELS,
    SERVER,
    SERVER_ACCURACY,
    TRAIN,
    column_of,
    group_of,
    label_of,
)
from atoll.platform.reports.figures.drawing import (
    Cells,
    Curve,
    Curves,
    Figure,
    bars,
    late_range,
    lines,
)
from atoll.platform.run_directory.run_files import Confusion

MAX_CLIENTS_SHOWN = 200
PENALTY = "penalty"
# Metrics with a figure of their own, where a run has them: before the loss and after it.
CURVES = ("accuracy", "auroc", "rmse", "mae", "deviance", "r2", "perplexity")
OTHER_CURVES = ("calibration_error", "attack_success")
ABBREVIATED = {"auroc": "AUROC", "rmse": "RMSE", "mae": "MAE", "r2": "R squared"}


def all_figures(
    rounds: pa.Table,
    clients: pa.Table,
    partition: Mapping[str, Any] | None,
    layers: pa.Table | None = None,
    confusion: Confusion | None = None,
) -> list[tuple[str, Figure]]:
    """Return the report's figures with their titles, those that there are data for."""
    makers: list[tuple[str, Callable[[], Figure | None]]] = [
        *((_metric_title(name), partial(_curves, rounds, name)) for name in CURVES),
        ("Loss", lambda: _curves(rounds, "loss")),
        *((_metric_title(name), partial(_curves, rounds, name)) for name in OTHER_CURVES),
        ("Accuracy by inference, and of baselines", lambda: _ways_of_inference(rounds)),
        ("Accuracy with an exit after each layer", lambda: _exits(rounds)),
        ("Loss of each layer", lambda: _layer_losses(layers)),
        ("Alignment penalty", lambda: _penalty(rounds, PENALTY)),
        ("Weight of the alignment penalty", lambda: _penalty(rounds, f"{PENALTY}_weight")),
        (_confusion_title(confusion), lambda: _confusion(confusion, partition)),
        ("Accuracy per class, last evaluation", lambda: _per_class(rounds, partition)),
        ("Seconds a round", lambda: _alone(rounds, "seconds")),
        ("Seconds of work per worker", lambda: _worker_load(clients)),
        ("Examples of each class, per client", lambda: _histogram(clients, partition)),
    ]
    made = ((title, maker()) for title, maker in makers)
    return [(title, drawn) for title, drawn in made if drawn is not None]


def _metric_title(name: str) -> str:
    return ABBREVIATED.get(name, label_of(name).capitalize())


def _axis_title(name: str) -> str:
    return ABBREVIATED.get(name, label_of(name))


def column(rounds: pa.Table, name: str) -> tuple[list[Any], list[Any]]:
    """Return the rounds in which a column has a value, and the values."""
    values = rounds.column(name).to_pylist()
    pairs = [
        (r, v) for r, v in zip(rounds.column("round").to_pylist(), values, strict=True) if v == v
    ]
    pairs = [(r, v) for r, v in pairs if v is not None]
    return [r for r, _ in pairs], [v for _, v in pairs]


def _curves(rounds: pa.Table, suffix: str) -> Curves | None:
    series: dict[str, tuple[list[Any], list[Any]]] = {}
    for group, label in CURVE_LABELS.items():
        for name in rounds.column_names:
            is_scalar = pa.types.is_floating(rounds.schema.field(name).type)
            if name.startswith(f"{group}_") and name.endswith(suffix) and is_scalar:
                series.setdefault(label, column(rounds, name))
    return lines(series, _axis_title(suffix)) if series else None


def _ways_of_inference(rounds: pa.Table) -> Curves | None:
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
    return lines({labels[name]: column(rounds, name) for name in names}, "accuracy")


def _exits(rounds: pa.Table) -> Curves | None:
    name = column_of(SERVER, "exits_accuracy")
    found = [v for v in rounds.column(name).to_pylist() if v] if name in rounds.column_names else []
    if not found:
        return None
    curve = Curve("accuracy", range(1, len(found[-1]) + 1), found[-1], mark="both")
    return Curves([curve], "accuracy", "layers used")


def _layer_losses(layers: pa.Table | None) -> Curves | None:
    if layers is None or not len(layers):
        return None
    series: dict[str, tuple[list[Any], list[Any]]] = {}
    for row in layers.select(["layer", "round", "loss"]).to_pylist():
        if row["loss"] is not None and row["layer"].startswith("block-"):
            rounds, losses = series.setdefault(row["layer"], ([], []))
            rounds.append(row["round"])
            losses.append(row["loss"])
    return lines(dict(sorted(series.items())), "squared error") if series else None


def _penalty(rounds: pa.Table, name: str) -> Curves | None:
    """Return a method's penalty over domains as the rounds went; a weight only if it changes."""
    found = column_of(TRAIN, name)
    if found not in rounds.column_names:
        return None
    _, values = column(rounds, found)
    if not values or (name != PENALTY and len(set(values)) == 1):
        return None
    return _alone(rounds, found, label_of(name))


def _alone(rounds: pa.Table, name: str, label: str = "") -> Curves:
    """Return the figure of one column, which needs no legend."""
    x, y = column(rounds, name)
    return Curves([Curve(label or name, x, y)], label or name, range=late_range([(x, y, y)]))


def _confusion_title(confusion: Confusion | None) -> str:
    return f"Confusion matrix, round {confusion.round}" if confusion else ""


def _confusion(confusion: Confusion | None, partition: Mapping[str, Any] | None) -> Cells | None:
    """Return how often each class is taken for which, coloured by the share of its examples."""
    if confusion is None or not any(map(sum, confusion.counts)):
        return None
    counts = confusion.counts
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    names = _class_names(len(counts), partition)
    texts = [
        [str(count) if count else "" for count in row] if len(counts) <= MAX_CELLS_WITH_TEXT else []
        for row in counts
    ]
    return Cells(
        shares,
        names,
        names,
        "examples" if texts[0] else "share",
        "class",
        "predicted",
        texts=texts if texts[0] else None,
        range=(0.0, 1.0),
    )


MAX_CELLS_WITH_TEXT = 30


def _class_names(count: int, partition: Mapping[str, Any] | None) -> list[str]:
    names = list((partition or {}).get("classes") or ())
    return names if len(names) == count else [str(place) for place in range(count)]


def _per_class(rounds: pa.Table, partition: Mapping[str, Any] | None) -> Curves | None:
    column_name = column_of(SERVER, "per_class_accuracy")
    if column_name not in rounds.column_names:
        return None
    evaluated = [v for v in rounds.column(column_name).to_pylist() if v]
    if not evaluated:
        return None
    last = evaluated[-1]
    names = _class_names(len(last), partition)
    # Points, not bars: an axis that shows the differences does not begin at 0.
    return Curves(
        [Curve("accuracy", range(len(last)), last, mark="points")],
        "accuracy",
        "class",
        categories=names,
    )


def _worker_load(clients: pa.Table) -> Curves | None:
    if not len(clients):
        return None
    load: dict[str, float] = {}
    for worker, seconds in zip(
        clients.column("worker").to_pylist(), clients.column("seconds").to_pylist(), strict=True
    ):
        if worker is not None and seconds is not None:
            load[worker] = load.get(worker, 0.0) + seconds
    names = sorted(load)
    return bars(names, {"seconds": [load[n] for n in names]}, "s") if load else None


def _histogram(clients: pa.Table, partition: Mapping[str, Any] | None) -> Cells | None:
    if partition is None or not partition["histogram"]:
        return None
    counts = partition["histogram"][:MAX_CLIENTS_SHOWN]
    shown: Sequence[int] = partition["clients"][:MAX_CLIENTS_SHOWN]
    nodes = _nodes_by_partition(clients)
    return Cells(
        [list(row) for row in zip(*counts, strict=True)],
        partition["classes"],
        list(map(str, shown)),
        "examples",
        "class",
        "client (partition)",
        ids=[str(nodes.get(number, "")) for number in shown],
    )


def _nodes_by_partition(clients: pa.Table) -> dict[int, int]:
    if not {"partition", "node_id"} <= set(clients.column_names):
        return {}
    pairs = zip(
        clients.column("partition").to_pylist(), clients.column("node_id").to_pylist(), strict=True
    )
    return {number: node for number, node in pairs if number is not None}
