"""Small layer runs in this process: the real driver, jobs run one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from atoll.clients.apps.client_spec import ClientSpec
from atoll.platform.config.experiment import Experiment
from atoll.platform.pool.gpu_sharing import GpuSharing
from atoll.platform.pool.jobs import Job
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.layerwise.block_files import UnitFiles, sha256_of_module
from atoll.platform.runs.layerwise.layerwise_run import LayerwiseTraining
from atoll.platform.runs.layerwise.network_arrays import UNITS_FOLDER
from atoll.platform.runs.session import Session


class InProcessPool:
    """Runs a source's jobs in this process; ``dies_with`` says which jobs kill their worker."""

    size = 1
    sharing = GpuSharing(0.0, is_measured=False)

    def __init__(self, dies_with: Callable[[Job], bool] = lambda job: False) -> None:
        self._dies_with = dies_with
        self.jobs: list[Job] = []

    def run(self, source: Any) -> None:
        while not source.finished:
            job = source.next_job(self.size, "here")
            assert job is not None
            self.jobs.append(job)
            if self._dies_with(job):
                source.lost(job, overdue=False)
                continue
            function, *arguments = job.arguments
            assert source.done(job, function(*arguments))


def experiment(**sections: Any) -> Experiment:
    tables: dict[str, Any] = {
        "run": {"rounds": 2, "seed": 3},
        "data": {"dataset": "digits", "clients": 1, "train_examples": 480, "test_examples": 100},
        "model": {"name": "noprop-dt", "block": "small", "steps": 3, "mean_of": 2},
        "client": {
            "optimizer": "adamw",
            "learning_rate": 0.002,
            "weight_decay": 0.001,
            "batch_size": 16,
        },
        "layers": {},
        "log": {"progress": False},
    }
    for name, section in sections.items():
        tables[name] = {**tables.get(name, {}), **section}
    return Experiment.from_dict(tables)


def run_here(
    directory: Path,
    asked: Experiment,
    *,
    pool: InProcessPool | None = None,
    is_new: bool = True,
    callbacks: Any = (),
) -> dict[str, Any]:
    """Run an experiment with ``[layers]`` to its end; return ``result.json``."""
    session = Session(
        directory,
        asked.to_dict() if is_new else None,
        identity=RunIdentity(asked.to_dict(), {}, {}),
        is_new=is_new,
        keep_checkpoints=2,
        observers=lambda directory: [],
    )
    with session, as_many_threads_as_a_worker():
        layers = LayerwiseTraining(asked, prepare(asked), session, callbacks)
        arrays = layers.run(pool or InProcessPool())
        return session.finish(arrays, **layers.facts())


@contextmanager
def as_many_threads_as_a_worker() -> Iterator[None]:
    """Within this context torch has one thread: sums over more have other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spec_of(asked: Experiment) -> ClientSpec:
    return prepare(asked).spec


def hashes(directory: Path, names: list[str], epoch: int) -> dict[str, str]:
    """Return the hash of each part's parameters and buffers after an epoch."""
    files = UnitFiles(directory / UNITS_FOLDER)
    return {name: sha256_of_module(files.read(name, epoch).module) for name in names}
