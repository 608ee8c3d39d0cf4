"""Real workers on a GPU in Ray's books, whose clients raise what PyTorch raises without room."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from atoll.randomness import derive_seed, seed_everything
from tests.support.clusters.probing import found_by
from tests.support.paths import CLUSTERS

pytestmark = pytest.mark.ray

PROBE = CLUSTERS / "gpu_probe.py"
GIB = 2**30


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return found_by([sys.executable, PROBE])


def replies(server_round: int) -> list[str]:
    """What the 12 clients reply, whoever runs them."""
    made = []
    for node in range(1, 13):
        seed_everything(derive_seed(5, server_round, "train", node - 1))
        made.append(np.full(3, float(np.random.rand()) + node).tobytes().hex())
    return made


@pytest.mark.long
def test_as_many_workers_work_as_fit(found: dict[str, Any]) -> None:
    given, [gpu] = found["measured"]
    assert given == replies(1)
    assert (gpu["workers"], gpu["slots"], gpu["back_offs"]) == (2, 3, 0)
    assert (gpu["peak_bytes"], gpu["context_bytes"]) == (3 * GIB, GIB // 2)
    assert gpu["total_bytes"] == 9 * GIB


@pytest.mark.long
def test_without_room_there_are_fewer_workers_and_the_same_bits(found: dict[str, Any]) -> None:
    given, [gpu] = found["backed_off"]
    assert given == replies(2)
    assert gpu["workers"] == 1
    assert gpu["back_offs"] == 1
    assert found["deaths"] == 0


@pytest.mark.long
def test_a_client_that_fits_nowhere_ends_the_run_with_what_to_lower(found: dict[str, Any]) -> None:
    assert "node 8 alone does not fit into the memory of GPU 0 of node" in found["refused"]
    assert "CUDA out of memory" in found["refused"]
    assert "lower the batch size (client.batch_size)" in found["refused"]
    assert found["afterwards"] == [1, 2]


@pytest.mark.long
def test_clients_that_do_not_fit_at_once_train_in_halves(found: dict[str, Any]) -> None:
    given, choice = found["together"]
    assert len(given) == 16
    assert None not in given
    assert choice["at_once"] == 8
    assert "16 clients sequential" in choice["reason"]
    assert ", 8 vectorised" in choice["reason"]
