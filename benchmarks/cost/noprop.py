"""Cost of layer-wise training: time with one and two workers, memory, seconds a step.

    python -m benchmarks.cost.noprop speed     # two layer workers against one, the same layers
    python -m benchmarks.cost.noprop memory    # one layer's worker against chained back-propagation
    python -m benchmarks.cost.noprop step      # seconds a training step and an epoch of each block

Figures are ratios within one run, as another machine or another load gives other seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from atoll.clients.noprop.block_training.epoch_training import train_epoch
from atoll.clients.noprop.block_training.example_source import Examples
from atoll.clients.noprop.block_training.training_memory import training_bytes
from atoll.clients.noprop.block_training.training_units import make_shared_part, make_unit
from atoll.clients.noprop.networks.design import Design
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run
from atoll.platform.runs.layerwise.process_memory import peak_memory

CLIENT = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-3, "batch_size": 128}


def experiment(arguments: argparse.Namespace, workers: int, out: Path) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"name": f"workers-{workers}", "rounds": arguments.epochs, "out": str(out)},
            "data": {
                "dataset": "mnist",
                "clients": 1,
                "train_examples": arguments.examples,
                "test_examples": 1000,
            },
            "model": {"name": "noprop-dt", "block": arguments.block, "steps": arguments.layers},
            "client": CLIENT,
            "layers": {},
            "ray": {"workers": workers},
            "log": {"progress": False},
        }
    )


def speed(arguments: argparse.Namespace) -> None:
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            clock = _Clock()
            asked = experiment(arguments, workers, Path(folder))
            result = run(asked, callbacks=[clock])
            # From the first epoch's end on: the start of Ray and of its workers is not the layers'.
            seconds[workers] = clock.ends[-1] - clock.ends[0]
            print(
                f"{workers} workers: {seconds[workers]:.1f} s for {arguments.epochs - 1} epochs of "
                f"{arguments.examples} images, {arguments.layers} layers of block "
                f"{arguments.block}; parameters {result.summary['parameters_sha256'][:12]}"
            )
    print(f"two workers take {seconds[2] / seconds[1]:.2f} of the time of one")


class _Clock:
    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self, record: Any) -> None:
        self.ends.append(time.perf_counter())


def memory(arguments: argparse.Namespace) -> None:
    design = design_of(arguments)
    client = ClientSettings.model_validate(CLIENT)
    shared = make_shared_part(design, 0)
    counted = {}
    for name in ("block-01", "chain", "cnn"):
        counted[name] = training_bytes(make_unit(name, design, shared, 0), design, client)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        idle = pool.apply(_peak_of, (None, arguments))
        measured = {name: pool.apply(_peak_of, (name, arguments)) - idle for name in counted}
    for name, held in counted.items():
        print(
            f"{name}: counted {held / 1e6:.1f} MB, process's peak above an idle one "
            f"{measured[name] / 1e6:.1f} MB"
        )
    for other in ("chain", "cnn"):
        print(
            f"one layer / {other}: counted {counted['block-01'] / counted[other]:.2f}, "
            f"measured {measured['block-01'] / measured[other]:.2f}"
        )


def _peak_of(name: str | None, arguments: argparse.Namespace) -> int:
    """Return the largest size of this process after some steps of training a part."""
    torch.set_num_threads(1)
    design = design_of(arguments)
    if name is not None:
        part, client = _part(name, design), ClientSettings.model_validate({**CLIENT, "steps": 3})
        train_epoch(
            part,
            _examples(arguments),
            client,
            learning_rate=1e-3,
            generator=torch.Generator().manual_seed(0),
        )
    return peak_memory()


def step(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    examples = _examples(arguments)
    for block in ("small", "half", "paper"):
        for precision in ("float32", "bfloat16"):
            arguments.block, arguments.precision = block, precision
            part = _part("block-05", design_of(arguments))
            _time_steps(part, examples, 2)
            taken = _time_steps(part, examples, arguments.steps)
            epoch = taken * -(-60_000 // 128)
            print(f"{block}, {precision}: {taken * 1e3:.1f} ms a step, {epoch:.0f} s an epoch")


def _time_steps(part: Any, examples: Examples, steps: int) -> float:
    client = ClientSettings.model_validate({**CLIENT, "steps": steps})
    began = time.process_time()
    train_epoch(
        part,
        examples,
        client,
        learning_rate=1e-3,
        generator=torch.Generator().manual_seed(0),
    )
    return (time.process_time() - began) / steps


def design_of(arguments: argparse.Namespace) -> Design:
    model = {
        "name": "noprop-dt",
        "block": arguments.block,
        "steps": arguments.layers,
        "precision": arguments.precision,
    }
    return Design.of(ModelSettings.model_validate(model), (1, 28, 28), 10)


def _part(name: str, design: Design) -> Any:
    return make_unit(name, design, make_shared_part(design, 0), 0)


def _examples(arguments: argparse.Namespace) -> Examples:
    federation = prepare(experiment(arguments, 1, Path()))
    dataset = federation.dataset
    return Examples(dataset, dataset.train, federation.partition.indices(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "memory", "step"])
    parser.add_argument("--block", default="half", choices=["small", "half", "paper"])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--examples", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    {"speed": speed, "memory": memory, "step": step}[arguments.what](arguments)


if __name__ == "__main__":
    main()
