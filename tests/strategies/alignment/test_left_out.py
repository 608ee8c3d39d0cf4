"""Nodes that fail queries are left out of the round; the others' round continues."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from atoll.strategies import build_strategy
from tests.support.strategies.small_federation import (
    LAYOUTS,
    SmallFederation,
    hex_of,
    make_federation,
    values,
)

WHOLE = LAYOUTS["one client a domain"]


def fail_when(federation: SmallFederation, is_time: Callable[[list[Message]], bool]) -> None:
    """Let the last node of the first exchange that ``is_time`` fail."""
    send, state = federation.grid.send_and_receive, {"done": False}

    def sending(messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        kept = list(messages)
        if not state["done"] and is_time(kept):
            state["done"] = True
            node = max(message.metadata.dst_node_id for message in kept)
            federation.grid.failing[node, "query.moments"] = 1
        return send(kept, timeout=timeout)

    federation.grid.send_and_receive = sending  # type: ignore[method-assign]


def test_a_new_node_that_fails_its_first_query_does_not_end_the_run(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, WHOLE)
    strategy = build_strategy("VREx", {"anneal_rounds": 0})
    federation.grid.get_node_ids = lambda: [1, 2]  # type: ignore[method-assign]
    arrays, _ = federation.round(strategy)
    federation.grid.get_node_ids = lambda: [1, 2, 3]  # type: ignore[method-assign]
    federation.grid.failing[3, "query.moments"] = 1
    federation.round(strategy, 2, arrays)
    trained = [m.metadata.dst_node_id for m in federation.grid.sent[-2:]]
    assert trained == [1, 2]


@pytest.mark.parametrize("name", ["Fish", "MLDG"])
def test_a_query_to_one_node_alone_may_fail(name: str, tmp_path: Path) -> None:
    federation = make_federation(tmp_path, WHOLE)
    strategy = build_strategy(name, {"server_learning_rate": 0.01})
    arrays, _ = federation.round(strategy)
    fail_when(federation, lambda messages: len(messages) == 1)
    after, _ = federation.round(strategy, 2, arrays)
    assert list(federation.grid.failing.values()) == [0]
    assert hex_of(after) != hex_of(arrays)
    assert all(np.isfinite(value).all() for value in values(after).values())


def test_steps_of_a_round_that_starts_again_are_taken_back(tmp_path: Path) -> None:
    layout: list[dict[str, int]] = [{"art": 5}, {"art": 4}, {"photo": 5}, {"photo": 4}]
    settings: dict[str, Any] = {"server_learning_rate": 0.01}
    federation = make_federation(tmp_path, layout)
    # The first query is for numbers of examples, the next for the first domain's gradient.
    exchanges = iter(range(100))
    fail_when(federation, lambda messages: next(exchanges) == 2)
    after, _ = federation.round(strategy := build_strategy("Fish", settings))
    federation.grid.get_node_ids = lambda: [1, 2, 3]  # type: ignore[method-assign]
    expected, _ = federation.round(without := build_strategy("Fish", settings))
    assert hex_of(after) == hex_of(expected)
    steps = [s.optimizer.state_dict()["steps"] for s in (strategy, without)]  # type: ignore[attr-defined]
    assert steps == [2, 2]
