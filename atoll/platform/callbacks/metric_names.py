"""Names of a run's metrics: their group, their column in ``rounds.parquet``, and what is shown.

A metric is of a group (clients' training, clients' evaluation, the server's evaluation) and has a
name of its own: ``accuracy``, ``loss``, ``accuracy_DOMAIN``. Its column is ``GROUP_NAME`` with
underscores for hyphens; so it is named in settings, too (``run.early_stopping.metric``). Whether
more of it is better is the setting beside it: ``mode``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRAIN, EVALUATE, SERVER = "train", "evaluate", "server"
GROUPS = (TRAIN, EVALUATE, SERVER)
# Of a round as a whole, in logs.
ROUND = "round"
# The metrics that a person is shown.
MAIN = ("accuracy", "loss")
# On the terminal, in this order.
SHORT_LABELS = {SERVER: "server", EVALUATE: "clients", TRAIN: "train"}
# In figures, by the start of a column, in this order.
CURVE_LABELS = {
    SERVER: "on the server's test data",
    f"{SERVER}_validation": "on validation data",
    EVALUATE: "on clients' data, mean",
    TRAIN: "in training, mean",
}
SERVER_ACCURACY = f"{SERVER}_accuracy"


def column_of(group: str, name: str) -> str:
    """Return a metric's column in the ledger."""
    return f"{group}_{name}".replace("-", "_")


def group_of(column: str) -> tuple[str, str]:
    """Return a column's group and the metric's name; the group is empty if it has none."""
    group, _, name = column.partition("_")
    return (group, name) if group in GROUPS else ("", column)


def is_metric(column: str) -> bool:
    """Tell whether a column of the ledger is a metric's."""
    return bool(group_of(column)[0])


def metrics_in(row: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return a group's metrics in a row of the ledger, by name; what is missing is left out."""
    split = {group_of(column): value for column, value in row.items() if value is not None}
    return {name: value for (found, name), value in split.items() if found == group}


def domain_accuracy(domain: str) -> str:
    """Return the column of the server's accuracy on a domain."""
    return column_of(SERVER, f"accuracy_{domain}")


def is_main(name: str) -> bool:
    """Tell whether a metric, or its column, is one of those that a person is shown."""
    return name.endswith(MAIN)


def label_of(column: str) -> str:
    """Return a column's name in words."""
    return column.replace("_", " ")
