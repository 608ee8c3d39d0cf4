"""Faults on a real Ray: each ends as an error with a reason, and no good update is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg, FedMedian

from atoll.errors import EngineError
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.messages.outcome import Outcome
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.run_directory.checkpoint import parameters_sha256
from tests.support.apps.faulty_app import app

pytestmark = pytest.mark.usefixtures("cluster")

NODES = 12
BAD = [3, 8]


def arrays() -> ArrayRecord:
    return ArrayRecord(
        {"w": Array(np.ones((2, 3), np.float32)), "b": Array(np.ones(2, np.float32))}
    )


def run(
    config: dict[str, object], *, strategy: FedAvg | None = None, rounds: int = 2, **options: object
) -> tuple[ArrayRecord, list[Outcome], RayGrid]:
    outcomes: list[Outcome] = []
    options = {"workers": 2, "chunk_size": 4, "seed": 1, "check_replies": "auto", **options}
    with RayGrid(app, NODES, **options) as grid:
        from atoll.platform.rounds.round_options import RoundOptions

        errors: list[Outcome] = []

        class Watch:
            def on_start(self, run: object) -> None: ...

            def on_end(self, result: object) -> None: ...

            def on_round(self, record: object) -> None:
                columns = record.clients
                for i, status in enumerate(columns["status"]):
                    row = {name: column[i] for name, column in columns.items()}
                    (errors if status == "error" else outcomes).append(row)

        strategy = strategy or FedAvg(fraction_evaluate=0.0)
        result = run_rounds(
            strategy,
            grid,
            arrays(),
            rounds,
            train_config=ConfigRecord(config),
            options=RoundOptions(observers=[Watch()]),
        )
        deaths = grid.pool.deaths
    return result.arrays, errors, deaths


@cache
def without_the_bad(strategy: type[FedAvg] = FedAvg, rounds: int = 2) -> ArrayRecord:
    """The mean over the good nodes, with every client asked: nodes that raise send nothing."""
    mean = strategy(fraction_evaluate=0.0)
    final, errors, _ = run({"fault": "raise", "nodes": BAD}, strategy=mean, rounds=rounds)
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
    fault: str, reason: str, strategy: type[FedAvg]
) -> None:
    # Each death costs the start of a worker, so clients that kill theirs get one round to do so.
    rounds = 1 if fault == "kill" else 2
    mean = strategy(fraction_evaluate=0.0)
    final, errors, _ = run({"fault": fault, "nodes": BAD}, strategy=mean, rounds=rounds)
    assert [(row["round"], row["node_id"]) for row in errors] == [
        (number, node) for number in range(1, rounds + 1) for node in BAD
    ]
    assert all(row["reason"].startswith(reason) for row in errors), errors
    assert all(row["partition"] == row["node_id"] - 1 for row in errors)
    expected = without_the_bad(strategy, rounds)
    assert parameters_sha256(final) == parameters_sha256(expected)


def test_a_straggler_past_its_timeout_is_an_error_and_the_others_count() -> None:
    started = time.monotonic()
    final, errors, deaths = run({"fault": "sleep", "nodes": BAD}, rounds=1, client_timeout=1.0)
    assert {row["reason"] for row in errors} == {"timed out after 1 s"}
    assert [row["node_id"] for row in errors] == BAD
    assert time.monotonic() - started < 40
    assert deaths == 2
    expected = without_the_bad(rounds=1)
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


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_killed_mid_round_changes_no_bit(workers: int, tmp_path: Path) -> None:
    undisturbed, _, _ = run({"fault": "none", "nodes": []}, workers=2)
    config = {"fault": "kill-once", "nodes": [5], "marker": str(tmp_path / "killed")}
    final, errors, deaths = run(config, workers=workers)
    assert (tmp_path / "killed").exists()
    assert deaths == 1
    assert not errors
    assert parameters_sha256(final) == parameters_sha256(undisturbed)


def test_workers_killed_from_outside_again_and_again_change_no_bit() -> None:
    undisturbed, _, _ = run({}, rounds=25, workers=2)
    with RayGrid(app, NODES, workers=2, chunk_size=4, seed=1) as grid:
        done = threading.Event()

        def kill() -> None:
            while not done.wait(1.0):
                pids = grid.pool.pids()
                if pids:
                    os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            slow = FedAvg(fraction_evaluate=0.0)
            final = run_rounds(slow, grid, arrays(), 25).arrays
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


def test_every_client_failing_leaves_no_new_model() -> None:
    final, errors, _ = run({"fault": "raise", "nodes": list(range(1, NODES + 1))}, rounds=1)
    assert len(errors) == NODES
    # As with Flower, there is no model where no round had an update.
    assert len(final) == 0


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
