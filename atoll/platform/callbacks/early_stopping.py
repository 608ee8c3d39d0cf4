"""Stopping before the last round."""

from __future__ import annotations

from typing import Any

from atoll.platform.callbacks.metric_names import mode_of
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.config.sections import EarlyStoppingSettings


class EarlyStopping:
    """Stops when a metric reaches its target, or has not improved for some rounds.

    Parameters
    ----------
    settings : EarlyStoppingSettings
        ``[run.early_stopping]``; the metric is named as in ``rounds.parquet``
        (``server_accuracy``, ``train_loss``, ``evaluate_loss``, ...).
    """

    def __init__(self, settings: EarlyStoppingSettings) -> None:
        self._settings = settings
        self._best: float | None = None
        self._best_round = 0

    def should_stop(self, record: RoundRecord) -> str | None:
        """Return why to stop after this round, or None."""
        settings = self._settings
        metric = settings.metric or record.main_metric
        value = None if metric is None else record.metric(metric)
        if metric is None or value is None:
            return None
        sign = 1.0 if mode_of(metric, settings.mode) == "max" else -1.0
        if settings.target is not None and sign * value >= sign * settings.target:
            return f"{metric} is {value:.4g}, the target {settings.target:g}"
        if self._best is None or sign * (value - self._best) > settings.min_delta:
            self._best, self._best_round = value, record.server_round
        waited = record.server_round - self._best_round
        if settings.patience is not None and waited >= settings.patience:
            return f"{metric} has not improved for {waited} rounds"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far and its round."""
        return {"best": self._best, "best_round": self._best_round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._best, self._best_round = state["best"], state["best_round"]
