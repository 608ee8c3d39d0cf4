"""What counts as a GPU without room, and what a client that raises it comes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from atoll.platform.messages.exchange import Chunk, Envelope, Exchange
from atoll.platform.messages.packing import pack
from atoll.platform.worker import gpu_memory
from atoll.platform.worker.client_runner import ClientRunner
from atoll.platform.worker.gpu_memory import OutOfGpuMemoryError, is_out_of_memory, run_on_gpu
from tests.support.apps.gpu_apps import TEXT, AppOnGpu

ENVELOPE = Envelope(0, "train", "", 100.0, 0.0)
EXCHANGE = Exchange(1, 0, 1, 6, (ENVELOPE,), (None,))
NODES = tuple(range(1, 7))
CHUNK = Chunk(0, tuple(range(6)), NODES, (0,) * 6, ("id",) * 6, ((1,),) * 6)


def contents(**config: int) -> dict[int, object]:
    arrays = ArrayRecord({"w": Array(np.zeros(2))})
    return {0: pack(RecordDict({"arrays": arrays, "config": ConfigRecord(config)}))}


@pytest.fixture
def runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ClientRunner:
    app = AppOnGpu(tmp_path, 3)
    monkeypatch.setattr(gpu_memory, "read_memory", app.read_memory)
    return ClientRunner(app, {}, "worker", has_gpu=request.param)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError(TEXT), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("the client is out of memory of what it was told"), False),
        (MemoryError("CUDA error: out of memory"), False),
    ],
)
def test_what_counts_as_a_gpu_without_room(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one

    def fail() -> None:
        raise error

    if not is_one:
        with pytest.raises(type(error)):
            run_on_gpu("a call", fail)
        return
    done = run_on_gpu("a call", fail)
    assert done.shortage is not None
    assert (done.value, done.memory) == (None, None)
    assert (done.shortage.what, done.shortage.at_once) == ("a call", 1)
    assert done.shortage.text == str(error)


@pytest.mark.parametrize("runner", [True], indirect=True)
def test_a_client_without_room_is_no_error_of_its_own(runner: ClientRunner) -> None:
    with pytest.raises(OutOfGpuMemoryError, match="^node 4$"):
        runner.run_chunk(EXCHANGE, CHUNK, contents(**{"too-large": 4}))


@pytest.mark.parametrize("runner", [False], indirect=True)
def test_without_a_gpu_it_is_what_any_exception_is(runner: ClientRunner) -> None:
    result = runner.run_chunk(EXCHANGE, CHUNK, contents(**{"too-large": 4}))
    failed = {o.node_id: o.reason for o in result.outcomes if o.status == "error"}
    assert failed == {4: f"the client raised OutOfMemoryError: {TEXT}"}


@pytest.mark.parametrize("runner", [True], indirect=True)
def test_clients_train_at_once_in_parts_as_large_as_fit(runner: ClientRunner) -> None:
    together = replace(EXCHANGE, vectorize=True)
    with pytest.raises(OutOfGpuMemoryError, match="^nodes 1, 2, 3, 4, 5, 6$") as caught:
        runner.run_chunk(together, CHUNK, contents())
    assert caught.value.at_once == 6
    result = runner.run_chunk(replace(together, at_once=3), CHUNK, contents())
    assert [(o.node_id, o.status) for o in result.outcomes] == [(n, "ok") for n in NODES]


@pytest.mark.parametrize("runner", [False], indirect=True)
def test_without_a_gpu_clients_that_fail_at_once_train_in_turn(runner: ClientRunner) -> None:
    result = runner.run_chunk(replace(EXCHANGE, vectorize=True), CHUNK, contents())
    assert all(outcome.status == "ok" for outcome in result.outcomes)
