"""Flower's strategies: what its round loop logs, and which of its own methods one keeps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from flwr.serverapp.strategy.strategy_utils import (
    aggregate_metricrecords,
    log_strategy_start_info,
    sample_nodes,
)

__all__ = [
    "averages_metrics_as_flower_does",
    "checks_replies_as_flower_does",
    "log_errors_only",
    "log_metrics",
    "log_result",
    "log_start",
    "overrides_start",
    "reply_counts",
    "route_start_to",
    "sample_nodes",
    "stock_start",
    "without_evaluation_warning",
]

flower_logger = logging.getLogger("flwr")
stock_start = Strategy.start


def averages_metrics_as_flower_does(strategy: FedAvg) -> bool:
    """Tell whether training metrics are averaged by Flower's default, by weight."""
    return strategy.train_metrics_aggr_fn is aggregate_metricrecords


def checks_replies_as_flower_does(strategy: FedAvg) -> bool:
    """Tell whether replies are checked by Flower's own method."""
    return type(strategy)._check_and_log_replies is FedAvg._check_and_log_replies


@contextmanager
def reply_counts(results: int, failures: int) -> Iterator[None]:
    """Within this context Flower logs these numbers of replies.

    Where workers add up replies, a strategy gets one reply that stands for all of them.
    """

    def correct(record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("%s: Received") and isinstance(record.args, tuple):
            record.args = (record.args[0], results, failures)
        return True

    flower_logger.addFilter(correct)
    try:
        yield
    finally:
        flower_logger.removeFilter(correct)


def log_errors_only() -> None:
    """Have Flower log nothing below an error."""
    # Flower sets the level when its logger's module is first imported, which it is by now.
    flower_logger.setLevel(logging.ERROR)


@contextmanager
def without_evaluation_warning() -> Iterator[None]:
    """Within this context a strategy is made without a warning of ``fraction_evaluate = 0``.

    Whoever sets the key knows; the warning is in a terminal's colours, in notebooks too.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("fraction_evaluate is set to 0.0")

    flower_logger.addFilter(keep)
    try:
        yield
    finally:
        flower_logger.removeFilter(keep)


def log_start(
    strategy: Strategy,
    num_rounds: int,
    arrays: ArrayRecord,
    train_config: ConfigRecord | None,
    evaluate_config: ConfigRecord | None,
) -> None:
    """Log what Flower logs when a strategy starts, and have the strategy sum itself up."""
    flower_logger.info("Starting %s strategy:", type(strategy).__name__)
    log_strategy_start_info(num_rounds, arrays, train_config, evaluate_config)
    strategy.summary()
    flower_logger.info("")


def log_result(result: Result, seconds: float) -> None:
    """Log what Flower logs when a strategy has ended."""
    flower_logger.info("")
    flower_logger.info("Strategy execution finished in %.2fs", seconds)
    flower_logger.info("")
    flower_logger.info("Final results:")
    flower_logger.info("")
    for line in str(result).splitlines():
        flower_logger.info("\t%s", line)
    flower_logger.info("")


def log_metrics(metrics: object, label: str = "Aggregated MetricRecord") -> None:
    """Log the metrics of a round as Flower does."""
    flower_logger.info("\t└──> %s: %s", label, metrics)


def overrides_start(strategy: Strategy) -> bool:
    """Tell whether ``strategy`` has a round loop of its own."""
    return type(strategy).start is not Strategy.start


@contextmanager
def route_start_to(loop: Callable[..., Result]) -> Iterator[None]:
    """Within this context ``Strategy.start`` is ``loop``: apps get it without being changed.

    A strategy that overrides ``start`` keeps its own; its ``super().start(...)`` is routed.
    """
    stock = Strategy.start

    # A plain function, so that it binds the strategy as a method does.
    def start(strategy: Strategy, *arguments: Any, **named: Any) -> Result:
        return loop(strategy, *arguments, **named)

    Strategy.start = start  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Strategy.start = stock  # type: ignore[method-assign]
