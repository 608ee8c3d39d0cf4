"""A round's metrics of clients' own models beside the global one: gain, and the worst tenth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atoll.clients.apps.training_messages import PERSONAL
from atoll.clients.tasks.directions import direction_of
from atoll.platform.grid.dispatch import ExchangeReport
from atoll.platform.messages.outcome import Metrics

EVALUATE = "evaluate"
# Of clients, those that a model serves worst.
WORST = 10


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
    shared, own = _values(told, name), _values(told, PERSONAL + name)
    sign = -1.0 if direction_of(name) == "lower" else 1.0
    gain = sign * (own - shared)
    return {
        "personal-gain": float(gain.mean()),
        "personal-improved": float((gain > 0).mean()),
        f"worst-tenth-{name}": worst_tenth(shared, sign),
        f"personal-worst-tenth-{name}": worst_tenth(own, sign),
    }


def worst_tenth(values: NDArray[np.float64], sign: float) -> float:
    """Return the mean of the worst tenth, rounded up.

    Parameters
    ----------
    values : NDArray[float64]
        One a client, shape (n,), n >= 1.
    sign : float
        1 where larger is better, else -1.

    Examples
    --------
    >>> worst_tenth(np.array([0.9, 0.1, 0.5]), 1.0)
    0.1
    """
    count = -(-len(values) // WORST)
    return float(sign * np.sort(sign * values)[:count].mean())


def _main(metrics: Metrics) -> str:
    """Return the first metric that both models have, the loss only if there is no other."""
    names = [key.removeprefix(PERSONAL) for key in metrics if key.startswith(PERSONAL)]
    return min(names, key=lambda name: name == "loss")


def _values(told: Sequence[Metrics], name: str) -> NDArray[np.float64]:
    return np.array([float(metrics[name]) for metrics in told])  # type: ignore[arg-type]
