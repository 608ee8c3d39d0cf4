"""Names of a run's metrics: their group, their column in ``rounds.parquet``, and what is shown.

A metric is of a group (clients' training, clients' evaluation, the server's evaluation) and has a
name of its own: ``accuracy``, ``loss``, ``accuracy_DOMAIN``. Its column is ``GROUP_NAME`` with
underscores for hyphens; so it is named in settings, too (``run.early_stopping.metric``). Whether
more of it is better is the setting beside it, ``mode``; by default what tasks say of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from atoll.clients.tasks.directions import direction_of
from atoll.privacy.kinds import DELTA, EPSILON

Mode = Literal["max", "min"]
TRAIN, EVALUATE, SERVER = "train", "evaluate", "server"
GROUPS = (TRAIN, EVALUATE, SERVER)
# Of a round as a whole, in logs.
ROUND = "round"
# The metrics that a person is shown: of a group the first of these that it has, and the loss.
LOSS = "loss"
MAIN = ("accuracy", "auroc", "rmse", "mae", "deviance", "perplexity", LOSS)
# What the server's noise has spent so far, and at which delta.
EPSILON_SPENT, DELTA_SPENT = f"{TRAIN}_{EPSILON}", f"{TRAIN}_{DELTA}"
# Of poisoned clients, beside those.
ATTACK_SUCCESS = "attack_success"
# On the terminal, in this order.
SHORT_LABELS = {SERVER: "server", EVALUATE: "clients", TRAIN: "train"}
# In figures, by the start of a column, in this order.
CURVE_LABELS = {
    SERVER: "on the server's test data",
    f"{SERVER}_validation": "on validation data",
    EVALUATE: "on clients' data, mean",
    f"{EVALUATE}_personal": "of clients' own models, mean",
    TRAIN: "in training, mean",
}
SERVER_ACCURACY = f"{SERVER}_accuracy"
# Not the main one, whatever comes first.
SECONDARY = ("validation_", "per_class_")


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


def main_metric(columns: Iterable[str], groups: Sequence[str] = GROUPS[::-1]) -> str | None:
    """Return the column by which a run is judged: the first of the server's metrics.

    A task's main metric comes first in a round's row. Without metrics of the server it is the
    first of the clients' evaluation, else of their training; None without any. Of a single round,
    which may be without an evaluation, ask for the server's group alone.
    """
    found = [group_of(column) for column in columns]
    for group in groups:
        for of, name in found:
            if of == group and not name.startswith(SECONDARY):
                return column_of(group, name)
    return None


def mode_of(metric: str, mode: Mode | None = None) -> Mode:
    """Return whether larger or smaller values of a metric are better, unless that is given."""
    return mode or ("min" if direction_of(metric) == "lower" else "max")


def domain_metric(main: str, domain: str) -> str:
    """Return the column of a metric on a domain, given its column on all of them."""
    return f"{main}_{domain}".replace("-", "_")


def is_main(name: str) -> bool:
    """Tell whether a metric, or its column, is one of those that a person is shown."""
    return name.endswith(MAIN)


def label_of(column: str) -> str:
    """Return a column's name in words."""
    return column.replace("_", " ")
