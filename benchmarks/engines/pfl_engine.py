"""Apple's pfl-research: the same model, examples and steps under its simulated backend.

Runs in an environment of its own (``.venv-pfl``), one process a core:
``python -m torch.distributed.run --nproc_per_node 2 -m benchmarks.engines.pfl_engine WORKLOAD
--data FILE``, where FILE is what ``benchmarks.export`` wrote.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from atoll.clients.models import MODELS
from benchmarks.engines.timing import RoundClock


class Learner(nn.Module):
    """A model with the two methods that pfl asks for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, images: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
        """Return the mean cross-entropy."""
        self.train(not eval)
        return nn.functional.cross_entropy(self.network(images), labels)

    def metrics(self, images: Tensor, labels: Tensor, eval: bool = False) -> dict[str, object]:
        """Return nothing: no engine evaluates."""
        return {}


class Clock(TrainingProcessCallback):
    """Notes the end of every round."""

    def __init__(self, clock: RoundClock) -> None:
        self._clock = clock

    def after_central_iteration(self, *arguments: object, **named: object):
        """Note the time."""
        self._clock.round_ended()
        return super().after_central_iteration(*arguments, **named)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    clock = RoundClock(STARTED)
    torch.set_num_threads(1)
    data = np.load(arguments.data, allow_pickle=False)
    images = torch.from_numpy(data["images"])
    labels = torch.from_numpy(data["labels"])
    torch.manual_seed(1)
    make = MODELS.find(str(data["model"]), "model")
    network = make(image_shape=tuple(images.shape[2:]), classes=10)
    learner = Learner(network)
    model = PyTorchModel(
        learner,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(learner.parameters(), lr=1.0),
    )

    def user(identifier: int) -> Dataset:
        return Dataset(raw_data=[images[identifier], labels[identifier]])

    sampler = get_user_sampler("minimize_reuse", list(range(len(images))))
    users = FederatedDataset(user, sampler)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=arguments.rounds,
            evaluation_frequency=10**9,
            train_cohort_size=int(data["cohort"]),
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=float(data["learning_rate"]),
            local_batch_size=int(data["batch"]),
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[Clock(clock)],
    )
    if os.environ.get("RANK", "0") == "0":
        clock.report()


if __name__ == "__main__":
    main()
