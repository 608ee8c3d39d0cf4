"""The ledger's rows, made from what became of the clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

from flwr.app import MetricRecord

from atoll.clients.personal.metric_prefix import PERSONAL
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.grid.exchange.dispatch import ExchangeReport
from atoll.platform.messages.outcome import Metrics, encodable
from atoll.platform.rounds.personal_metrics import personal_metrics

# The ledger's counts are 64-bit integers, and so is the sum of a cohort's.
LARGEST_COUNT = 2**53
# Columns that hold a metric: its names, and whether it is of the client's own model.
NAMED = {
    "loss": (("loss",), False),
    "accuracy": (("accuracy", "acc"), False),
    "personal_loss": (("loss",), True),
    "personal_accuracy": (("accuracy",), True),
    "epsilon": (("epsilon",), False),
}


def round_record(
    server_round: int,
    num_rounds: int,
    seconds: float,
    reports: Sequence[ExchangeReport],
    domain_of: Callable[[int], str | None],
    *,
    train: MetricRecord | None = None,
    evaluate: MetricRecord | None = None,
    server: MetricRecord | None = None,
) -> RoundRecord:
    """Return a round's record.

    Parameters
    ----------
    reports : Sequence[ExchangeReport]
        The round's exchanges.
    domain_of : Callable[[int], str | None]
        The domain of a partition.
    train, evaluate, server : MetricRecord or None
        The round's aggregated metrics.
    """
    trained = [o for report in reports if report.kind.startswith("train") for o in report.outcomes]
    everyone = [o for report in reports for o in report.outcomes]
    return RoundRecord(
        server_round=server_round,
        num_rounds=num_rounds,
        seconds=seconds,
        cohort=len(trained),
        replies=sum(o.status == "ok" for o in trained),
        errors=sum(o.status == "error" for o in everyone),
        examples=sum(_examples(o.metrics) or 0 for o in trained),
        train_metrics=_plain(train),
        evaluate_metrics={**_plain(evaluate), **personal_metrics(reports)},
        server_metrics=_plain(server),
        bytes_down=sum(report.bytes_down for report in reports),
        bytes_up=sum(o.bytes_up for o in everyone),
        sum_bytes_made=sum(report.traffic.made for report in reports),
        sum_bytes_moved=sum(report.traffic.moved for report in reports),
        clients=_client_columns(server_round, reports, domain_of),
    )


def _client_columns(
    server_round: int,
    reports: Sequence[ExchangeReport],
    domain_of: Callable[[int], str | None],
) -> dict[str, list[Any]]:
    rows = [(report.kind, outcome) for report in reports for outcome in report.outcomes]
    metrics: list[Metrics] = [o.metrics or {} for _, o in rows]
    keys = [_keys_of_columns(tuple(of_client)) for of_client in metrics]
    return {
        "round": [server_round] * len(rows),
        "phase": [kind for kind, _ in rows],
        "node_id": [o.node_id for _, o in rows],
        "partition": [o.node_id - 1 for _, o in rows],
        "domain": [domain_of(o.node_id - 1) for _, o in rows],
        "examples": [_examples(of_client) for of_client in metrics],
        **{
            column: [_first(m, k[place]) for m, k in zip(metrics, keys, strict=True)]
            for place, column in enumerate(NAMED)
        },
        "seconds": [o.seconds for _, o in rows],
        "bytes_down": [size for report in reports for size in report.bytes_to],
        "bytes_up": [o.bytes_up for _, o in rows],
        "layers": [_numbers(of_client, "layers") for of_client in metrics],
        "peak_memory": [_number(of_client, "peak-memory") for of_client in metrics],
        "worker": [o.worker or None for _, o in rows],
        "status": [o.status for _, o in rows],
        "reason": [o.reason for _, o in rows],
    }


def _examples(metrics: Metrics | None) -> int | None:
    known = metrics or {}
    return _count(known.get("num-examples", known.get("num_examples")))


def _number(metrics: Metrics, name: str) -> int | None:
    return _count(metrics.get(name))


def _numbers(metrics: Metrics, name: str) -> list[int] | None:
    value = metrics.get(name)
    counts = [_count(item) for item in value] if isinstance(value, list) else [None]
    return None if None in counts else counts  # type: ignore[return-value]


def _count(value: object) -> int | None:
    """Return a number as one of the table's counts, if it can be one."""
    if isinstance(value, int | float) and abs(value) <= LARGEST_COUNT:
        return int(value)
    return None


# The clients of a round report the same few metrics.
@lru_cache(maxsize=256)
def _keys_of_columns(keys: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return, for each column of ``NAMED``, the metrics that it can be of.

    They are called one of the column's names, alone or with a prefix ("train_loss").
    """
    lasts = [key.replace("-", "_").rpartition("_")[2].lower() for key in keys]
    return tuple(
        tuple(
            key
            for key, last in zip(keys, lasts, strict=True)
            if last in names and key.startswith(PERSONAL) == own
        )
        for names, own in NAMED.values()
    )


def _first(metrics: Metrics, keys: tuple[str, ...]) -> float | None:
    """Return the first of these metrics that is a number."""
    for key in keys:
        value = metrics[key]
        if isinstance(value, int | float):
            return _float(value)
    return None


def _plain(metrics: object) -> dict[str, float | list[float]]:
    """Return metrics as tables can hold them.

    An app's functions return what they like: any name, any integer, a text, or no metrics at all.
    """
    if not isinstance(metrics, Mapping):
        return {}
    plain = {encodable(str(name)): _storable(value) for name, value in metrics.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _storable(value: object) -> Any:
    if isinstance(value, list):
        items = [_storable(item) for item in value]
        return None if any(item is None or isinstance(item, list) for item in items) else items
    if not isinstance(value, Real):
        return None
    return int(value) if isinstance(value, Integral) and _is_small(value) else _float(value)


def _is_small(value: Integral) -> bool:
    return -LARGEST_COUNT <= int(value) <= LARGEST_COUNT


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
