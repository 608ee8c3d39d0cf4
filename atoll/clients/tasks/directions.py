"""Direction in which each metric is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Direction = Literal["higher", "lower"]
# Per metric the direction in which it is better. A name means the same in every task.
DIRECTIONS: Mapping[str, Direction] = {
    "accuracy": "higher",
    "loss": "lower",
    "calibration_error": "lower",
    "auroc": "higher",
    "auprc": "higher",
    "f1": "higher",
    "exact_match": "higher",
    "mae": "lower",
    "rmse": "lower",
    "r2": "higher",
    "deviance": "lower",
    "perplexity": "lower",
    # Of poisoned clients, for the federation.
    "attack_success": "lower",
}


def direction_of(metric: str) -> Direction | None:
    """Return in which direction a metric is better; None of one that no task has.

    Parameters
    ----------
    metric : str
        A metric's name, also with a group before it and a domain after it
        ("server_accuracy_e0.1").
    """
    words = metric.split("_")
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            found = DIRECTIONS.get("_".join(words[start : start + length]))
            if found is not None:
                return found
    return None
