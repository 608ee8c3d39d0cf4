"""The round whose checkpoint stays beside the newest ones."""

from __future__ import annotations

import math
from typing import Any, Literal

from atoll.platform.callbacks.metric_names import Mode, mode_of
from atoll.platform.callbacks.observers import RoundRecord


class KeptRound:
    """Choice of the round whose checkpoint stays: none, the best so far, or a given one.

    Parameters
    ----------
    keep : "last", "best" or int
        ``run.keep``.
    metric : str or None
        What "best" is by, as in ``rounds.parquet``; by default the task's main metric.
    mode : "max", "min" or None
        Whether larger or smaller values are better, by default as the metric is known to be; the
        first of equal ones is the best.
    """

    def __init__(
        self,
        keep: Literal["last", "best"] | int = "last",
        metric: str | None = None,
        mode: Mode | None = None,
    ) -> None:
        self._keep = keep
        self._metric = metric
        self._mode = mode
        self._best: float | None = None
        self._best_round: int | None = None

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds whose checkpoints stay."""
        if isinstance(self._keep, int):
            return (self._keep,)
        return () if self._best_round is None else (self._best_round,)

    def note(self, record: RoundRecord) -> bool:
        """Take note of a round's end; return whether its checkpoint is to stay."""
        if isinstance(self._keep, int):
            return record.server_round == self._keep
        metric = self._metric or record.main_metric
        value = record.metric(metric) if metric is not None and self._keep == "best" else None
        if metric is None or value is None or math.isnan(value):
            return False
        sign = 1.0 if mode_of(metric, self._mode) == "max" else -1.0
        if self._best is not None and sign * (value - self._best) <= 0:
            return False
        self._best, self._best_round = value, record.server_round
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, its round, and what it is of."""
        return {"metric": self._metric, "best": self._best, "round": self._best_round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; what was the best by another metric is forgotten."""
        if self._keep == "best" and state and state["metric"] == self._metric:
            self._best, self._best_round = state["best"], state["round"]
