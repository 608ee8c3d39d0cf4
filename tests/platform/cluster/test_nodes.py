"""Federations on a cluster of several nodes, which die and join while they train.

Nodes are network namespaces where the machine allows it (``node_cluster.py``), and are killed as a
machine is whose power fails. One cluster serves all tests.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.clusters.node_cluster import ENVIRONMENT, in_private_network, namespaces_allowed
from tests.support.clusters.nodes_probe import LARGE_SIZE
from tests.support.clusters.probing import found_by
from tests.support.paths import CLUSTERS

pytestmark = pytest.mark.ray

PROBE = CLUSTERS / "nodes_probe.py"
# A chunk's sum: the model's two rows, in float64.
SUM_BYTES = 2 * LARGE_SIZE * 8


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    private = namespaces_allowed()
    command = [sys.executable, str(PROBE), "private" if private else "shared"]
    command = in_private_network(command) if private else command
    return {"private": private, **found_by(command, ENVIRONMENT)}


@pytest.mark.long
def test_data_are_brought_to_a_node_once(found: dict[str, Any]) -> None:
    seen = found["data"]
    assert seen["right"]
    assert seen["files"] == ["dataset.json", "test.arrow", "train.arrow"]
    # Two workers opened them. Without namespaces the folder is there already.
    assert seen["brought"] == [seen["size"] if found["private"] else 0]


@pytest.mark.long
def test_workers_are_on_every_node_with_processors(found: dict[str, Any]) -> None:
    assert found["come_and_go"]["workers"]["1"] == 4
    assert found["come_and_go"]["nodes"]["1"] == [0, 1]


@pytest.mark.long
def test_a_node_killed_mid_round_costs_no_update_and_changes_no_bit(found: dict[str, Any]) -> None:
    seen = found["come_and_go"]
    assert seen["nodes"]["2"] == [0, 1]
    assert seen["nodes"]["3"] == seen["nodes"]["4"] == [0]
    assert seen["errors"] == []
    assert seen["sha256"] == found["undisturbed"]["small"]


@pytest.mark.long
def test_a_node_that_joins_is_used_from_the_next_round(found: dict[str, Any]) -> None:
    seen = found["come_and_go"]
    assert 2 in seen["nodes"]["5"]
    assert seen["workers"]["6"] == 4


@pytest.mark.long
def test_sums_of_a_large_model_are_added_up_on_their_nodes(found: dict[str, Any]) -> None:
    made, moved = found["large"]["traffic"][0]
    assert made == 12 * SUM_BYTES
    assert moved % SUM_BYTES == 0
    # One a node if both are equally fast, a few if not.
    assert 2 <= moved // SUM_BYTES <= 8


@pytest.mark.long
def test_sums_that_are_lost_with_their_node_are_made_again(found: dict[str, Any]) -> None:
    seen = found["large"]
    assert seen["errors"] == []
    assert seen["sha256"] == found["undisturbed"]["large"]
