"""A round's metrics of clients' own models beside the global one: gain, and the worst tenth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atoll.clients.personal.metric_prefix import PERSONAL
from atoll.clients.tasks.directions import direction_of
from atoll.platform.callbacks.worst_tenth import worst_tenth
from atoll.platform.grid.exchange.dispatch import ExchangeReport
from atoll.platform.messages.outcome import Metrics

EVALUATE = "evaluate"
# Beyond it an integer is no float.
LARGEST = 2.0**1023


def personal_metrics(reports: Sequence[ExchangeReport]) -> dict[str, float]:
    """Return what clients gain by their own models; nothing where none has evaluated one.

    Each client counts the same. ``personal-gain`` is the mean of the differences of the task's
    main metric, positive where the own model is better; ``personal-improved`` the share of
    clients for which it is; ``worst-tenth-METRIC`` and ``personal-worst-tenth-METRIC`` the mean
    over the tenth of the clients, rounded up, that the global model and the own ones serve worst.
    """
    told = [
        outcome.metrics
        for report in reports
        if report.kind.startswith(EVALUATE)
        for outcome in report.outcomes
        if outcome.metrics and any(name.startswith(PERSONAL) for name in outcome.metrics)
    ]
    if not told:
        return {}
    name = _main(told[0])
    if not all(_is_number(row.get(key)) for row in told for key in (name, PERSONAL + name)):
        # An app's own metrics may begin with the same word.
        return {}
    shared, own = _values(told, name), _values(told, PERSONAL + name)
    sign = -1.0 if direction_of(name) == "lower" else 1.0
    gain = sign * (own - shared)
    return {
        "personal-gain": float(gain.mean()),
        "personal-improved": float((gain > 0).mean()),
        f"worst-tenth-{name}": worst_tenth(shared, sign),
        f"personal-worst-tenth-{name}": worst_tenth(own, sign),
    }


def _main(metrics: Metrics) -> str:
    """Return the first metric that both models have, the loss only if there is no other."""
    names = [key.removeprefix(PERSONAL) for key in metrics if key.startswith(PERSONAL)]
    return min(names, key=lambda name: name == "loss")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST


def _values(told: Sequence[Metrics], name: str) -> NDArray[np.float64]:
    return np.array([float(metrics[name]) for metrics in told])  # type: ignore[arg-type]
