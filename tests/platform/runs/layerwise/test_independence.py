"""A part's bits depend on its name, the seed and the data: on nothing that other parts do."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.noprop.block_training.epoch_training import train_epoch
from atoll.clients.noprop.block_training.example_source import Examples
from atoll.clients.noprop.block_training.training_units import (
    block_names,
    make_shared_part,
    make_unit,
)
from atoll.platform.runs.layerwise.block_files import SHARED, UnitFiles, UnitState
from atoll.platform.runs.layerwise.block_job import open_data, train_unit
from atoll.platform.runs.layerwise.network_arrays import UNITS_FOLDER
from tests.support.runs.layer_runs import (
    InProcessPool,
    as_many_threads_as_a_worker,
    experiment,
    hashes,
    run_here,
    spec_of,
)

EPOCHS = 2
BLOCKS = ["block-01", "block-02", "block-03"]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("together") / "run"
    run_here(directory, experiment())
    return directory


def begin(directory: Path, spec: ClientSpec) -> Path:
    """Make the shared part, as a run does before its first epoch."""
    _, design, _ = open_data(spec)
    shared = make_shared_part(design, spec.seed)
    UnitFiles(directory / UNITS_FOLDER).write(SHARED, UnitState(0, dict(shared.state_dict())))
    return directory / UNITS_FOLDER


def train_alone(directory: Path, names: list[str]) -> None:
    spec = spec_of(experiment())
    parts = begin(directory, spec)
    with as_many_threads_as_a_worker():
        for epoch in range(1, EPOCHS + 1):
            for name in names:
                report = train_unit(spec, parts, name, epoch, 0)
                assert report.status == "ok", report.reason


@pytest.mark.slow
def test_alone_in_reverse_order_and_together_give_the_same_bits(
    together: Path, tmp_path: Path
) -> None:
    expected = hashes(together, BLOCKS, EPOCHS)
    assert len(set(expected.values())) == len(BLOCKS)
    train_alone(tmp_path / "alone", ["block-02"])
    assert hashes(tmp_path / "alone", ["block-02"], EPOCHS)["block-02"] == expected["block-02"]
    train_alone(tmp_path / "reverse", BLOCKS[::-1])
    assert hashes(tmp_path / "reverse", BLOCKS, EPOCHS) == expected


@pytest.mark.slow
def test_another_process_gives_the_same_bits(together: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=train_alone, args=(tmp_path, ["block-03"])
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert hashes(tmp_path, ["block-03"], EPOCHS) == hashes(together, ["block-03"], EPOCHS)


def test_resuming_without_the_optimisers_state_gives_other_bits(
    together: Path, tmp_path: Path
) -> None:
    spec = spec_of(experiment())
    parts = begin(tmp_path, spec)
    files = UnitFiles(parts)
    train_unit(spec, parts, "block-01", 1, 0)
    state = files.read("block-01", 1)
    assert state.optimizer is not None
    files.write("block-01", UnitState(1, state.module, None, state.reports))
    train_unit(spec, parts, "block-01", 2, 0)
    first, second = (hashes(path, ["block-01"], 2) for path in (tmp_path, together))
    assert first != second
    assert hashes(tmp_path, ["block-01"], 1) == hashes(together, ["block-01"], 1)


def test_an_epoch_that_is_done_is_not_done_again(together: Path) -> None:
    spec = spec_of(experiment())
    path = UnitFiles(together / UNITS_FOLDER).path("block-01", EPOCHS)
    before = path.stat().st_mtime_ns
    report = train_unit(spec, together / UNITS_FOLDER, "block-01", 1, 0)
    assert (report.epoch, report.status) == (1, "ok")
    assert path.stat().st_mtime_ns == before


def test_a_corrupt_checkpoint_costs_its_epoch_and_no_bit(together: Path, tmp_path: Path) -> None:
    train_alone(tmp_path, ["block-01"])
    path = UnitFiles(tmp_path / UNITS_FOLDER).path("block-01", EPOCHS)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    train_alone(tmp_path, ["block-01"])
    assert hashes(tmp_path, ["block-01"], EPOCHS) == hashes(together, ["block-01"], EPOCHS)


@pytest.mark.slow
def test_blocks_agree_on_a_trained_embedding_at_points_that_make_order_irrelevant(
    tmp_path: Path,
) -> None:
    """And, the control: blocks that train one embedding without such points depend on order."""
    learned = experiment(model={"embedding": "learned", "dimension": 20})
    run_here(tmp_path / "one", learned)
    run_here(tmp_path / "other", learned, pool=_Reversed())
    one, other = (hashes(tmp_path / name, BLOCKS, EPOCHS) for name in ("one", "other"))
    assert one == other

    spec = spec_of(learned)
    dataset, design, indices = open_data(spec)
    examples = Examples(dataset, dataset.train, indices)
    found = []
    for order in (block_names(design), block_names(design)[::-1]):
        shared = make_shared_part(design, spec.seed)
        for name in order:
            train_epoch(
                make_unit(name, design, shared, spec.seed),
                examples,
                spec.client,
                learning_rate=0.002,
                generator=torch.Generator().manual_seed(0),
            )
        found.append(shared.embedding.detach().clone())
    assert not torch.equal(*found)


@pytest.mark.slow
def test_with_a_trained_embedding_a_block_alone_differs_from_all_together(tmp_path: Path) -> None:
    learned = experiment(model={"embedding": "learned", "dimension": 20})
    run_here(tmp_path / "all", learned)
    failing = InProcessPool(lambda job: job.payload == "block-03")
    run_here(tmp_path / "fewer", learned, pool=failing)
    one, other = (hashes(tmp_path / name, ["block-01"], EPOCHS) for name in ("all", "fewer"))
    assert one != other


class _Reversed(InProcessPool):
    """Runs the jobs that there are at a time in reverse order."""

    def run(self, source) -> None:
        while not source.finished:
            ready = []
            while (job := source.next_job(1, "here")) is not None:
                ready.append(job)
            for job in reversed(ready):
                function, *arguments = job.arguments
                source.done(job, function(*arguments))
