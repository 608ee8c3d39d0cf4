"""Faults on a real Ray: each ends as an error with a reason, and no good update is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg, FedMedian

from atoll.errors import EngineError
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import parameters_sha256
from tests.support.apps.faulty_app import app

pytestmark = pytest.mark.usefixtures("cluster")

NODES = 12
BAD = [3, 8]


def arrays() -> ArrayRecord:
    return ArrayRecord(
        {"w": Array(np.ones((2, 3), np.float32)), "b": Array(np.ones(2, np.float32))}
    )


class ErrorRows:
    """An observer that keeps the rows of clients that failed."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_start(self, run: object) -> None: ...

    def on_end(self, result: object) -> None: ...

    def on_round(self, record: RoundRecord) -> None:
        columns = record.clients
        for i, status in enumerate(columns["status"]):
            if status == "error":
                self.rows.append({name: column[i] for name, column in columns.items()})


def run_on(
    grid: RayGrid, config: dict[str, object], strategy: FedAvg | None = None, rounds: int = 2
) -> tuple[ArrayRecord, list[dict[str, Any]]]:
    errors = ErrorRows()
    result = run_rounds(
        strategy or FedAvg(fraction_evaluate=0.0),
        grid,
        arrays(),
        rounds,
        train_config=ConfigRecord(config),
        options=RoundOptions(observers=[errors]),
    )
    return result.arrays, errors.rows


def new_grid(workers: int = 2, **options: Any) -> RayGrid:
    settings = {"chunk_size": 4, "seed": 1, "check_replies": "auto", **options}
    return RayGrid(app, NODES, workers=workers, **settings)


def run(
    config: dict[str, object], *, rounds: int = 2, **options: Any
) -> tuple[ArrayRecord, list[dict[str, Any]], int]:
    with new_grid(**options) as grid:
        final, errors = run_on(grid, config, rounds=rounds)
        return final, errors, grid.pool.deaths


@pytest.fixture(scope="module")
def grid(cluster: None) -> Iterator[RayGrid]:
    """A grid for tests whose clients leave its workers alive."""
    with new_grid() as shared:
        yield shared


@cache
def without_the_bad(grid: RayGrid, strategy: type[FedAvg] = FedAvg, rounds: int = 2) -> ArrayRecord:
    """The mean over the good nodes, with every client asked: nodes that raise send nothing."""
    mean = strategy(fraction_evaluate=0.0)
    final, errors = run_on(grid, {"fault": "raise", "nodes": BAD}, mean, rounds)
    assert {row["node_id"] for row in errors} == set(BAD)
    return final


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "the client raised RuntimeError: no data today"),
        ("exit", "the client raised SystemExit: 3"),
        ("keys", "wrong keys: missing"),
        ("shape", "wrong shape of 'w'"),
        ("dtype", "wrong dtype of 'w': float64, expected float32"),
        ("nan", "NaN or infinite values in 'w'"),
        ("inf", "NaN or infinite values in 'w'"),
        ("kill", "the client killed its worker 2 times"),
    ],
)
@pytest.mark.parametrize("strategy", [FedAvg, FedMedian])
def test_a_bad_client_is_an_error_row_and_the_others_count(
    fault: str, reason: str, strategy: type[FedAvg], grid: RayGrid
) -> None:
    # Each death costs the start of a worker, so clients that kill theirs get one round to do so.
    rounds = 1 if fault == "kill" else 2
    mean = strategy(fraction_evaluate=0.0)
    final, errors = run_on(grid, {"fault": fault, "nodes": BAD}, mean, rounds)
    assert [(row["round"], row["node_id"]) for row in errors] == [
        (number, node) for number in range(1, rounds + 1) for node in BAD
    ]
    assert all(row["reason"].startswith(reason) for row in errors), errors
    assert all(row["partition"] == row["node_id"] - 1 for row in errors)
    expected = without_the_bad(grid, strategy, rounds)
    assert parameters_sha256(final) == parameters_sha256(expected)


def test_a_straggler_past_its_timeout_is_an_error_and_the_others_count(grid: RayGrid) -> None:
    started = time.monotonic()
    final, errors, deaths = run({"fault": "sleep", "nodes": BAD}, rounds=1, client_timeout=1.0)
    assert {row["reason"] for row in errors} == {"timed out after 1 s"}
    assert [row["node_id"] for row in errors] == BAD
    assert time.monotonic() - started < 40
    assert deaths == 2
    expected = without_the_bad(grid, rounds=1)
    assert parameters_sha256(final) == parameters_sha256(expected)


def test_the_round_timeout_ends_what_is_not_done() -> None:
    with RayGrid(app, 4, workers=2, chunk_size=1) as grid:
        # The next round waits for the client that still sleeps.
        config = ConfigRecord({"fault": "sleep", "nodes": [2], "seconds": 12})
        result = run_rounds(
            FedAvg(fraction_evaluate=0.0), grid, arrays(), 1, timeout=3.0, train_config=config
        )
        assert len(result.train_metrics_clientapp) == 1
        again = run_rounds(FedAvg(fraction_evaluate=0.0), grid, arrays(), 1)
        assert again.train_metrics_clientapp[1]["rounds"] > 1


@pytest.mark.parametrize("workers", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_worker_killed_mid_round_changes_no_bit(
    workers: int, grid: RayGrid, tmp_path: Path
) -> None:
    undisturbed, _ = run_on(grid, {"fault": "none", "nodes": []})
    config = {"fault": "kill-once", "nodes": [5], "marker": str(tmp_path / "killed")}
    final, errors, deaths = run(config, workers=workers)
    assert (tmp_path / "killed").exists()
    assert deaths == 1
    assert not errors
    assert parameters_sha256(final) == parameters_sha256(undisturbed)


def test_workers_killed_from_outside_again_and_again_change_no_bit(grid: RayGrid) -> None:
    undisturbed, _ = run_on(grid, {}, rounds=25)
    with RayGrid(app, NODES, workers=2, chunk_size=4, seed=1) as disturbed:
        done = threading.Event()

        def kill() -> None:
            while not done.wait(1.0):
                pids = disturbed.pool.pids()
                if pids:
                    os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            slow = FedAvg(fraction_evaluate=0.0)
            final = run_rounds(slow, disturbed, arrays(), 25).arrays
        finally:
            done.set()
            killer.join()
    assert parameters_sha256(final) == parameters_sha256(undisturbed)


def test_an_app_that_cannot_be_made_is_one_clear_error() -> None:
    def broken() -> None:
        raise ImportError("no module named 'torchvision'")

    grid = RayGrid(broken, 3, workers=1)
    try:
        with pytest.raises(EngineError, match="no module named 'torchvision'"):
            run_rounds(FedAvg(), grid, arrays(), 1)
    finally:
        grid.close()


def test_every_client_failing_leaves_no_new_model(grid: RayGrid) -> None:
    config = {"fault": "raise", "nodes": list(range(1, NODES + 1))}
    final, errors = run_on(grid, config, rounds=1)
    assert len(errors) == NODES
    # As with Flower, there is no model where no round had an update.
    assert len(final) == 0


@pytest.mark.long
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_a_client_that_kills_is_told_from_those_before_it(chunk_size: int) -> None:
    """Workers have a job ahead: the death must be laid to the job that was running."""
    config = ConfigRecord({"fault": "kill", "nodes": [20, 41]})
    with RayGrid(app, 60, workers=2, chunk_size=chunk_size, seed=1) as grid:
        failed: list[tuple[int, str | None]] = []
        grid.report_to(
            lambda report: failed.extend(
                (o.node_id, o.reason) for o in report.outcomes if o.status == "error"
            )
        )
        messages = FedAvg(fraction_evaluate=0.0).configure_train(1, arrays(), config, grid)
        grid.send_and_receive(messages)
    assert failed == [(node, "the client killed its worker 2 times") for node in (20, 41)]
