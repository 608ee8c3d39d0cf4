"""Estimate of a run's duration, logged before a long run begins.

Bounds keep out what is a mistake at any speed; 10,000 rounds of a thousand clients are none, and
may be a day or a year. So where a run has a million local steps or more, one is timed here.
"""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.settings import ClientSettings
from atoll.clients.training.evaluation import ModelData

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment

logger = logging.getLogger("atoll")

# Fewer are not worth the timing of one.
MANY_STEPS = 1_000_000
SECONDS_SAID = 3600.0
# Of a larger batch a part is timed.
TIMED_EXAMPLES = 256


def warn_of_a_long_run(
    experiment: Experiment,
    model: nn.Module,
    data: ModelData,
    sizes: NDArray[np.int64],
) -> None:
    """Say what a run takes of one core, if that is more than an hour.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    model : nn.Module
        Its model; it does not change, nor does the global generator.
    data : ModelData
        What it is given and predicts.
    sizes : NDArray[np.int64]
        The clients' examples.
    """
    if is_noprop(experiment.model) or not len(sizes):
        return
    steps = local_steps(experiment, sizes)
    if steps < MANY_STEPS:
        return
    each = seconds_a_step(model, data, experiment.client.batch_size)
    if steps * each > SECONDS_SAID:
        logger.warning(
            "the run has about %.2g local steps (run.rounds = %d, %s); at %.3g ms each on this "
            "machine's CPU that is %s of one core",
            steps,
            experiment.run.rounds,
            _of_a_client(experiment.client),
            1e3 * each,
            _duration(steps * each),
        )


def local_steps(experiment: Experiment, sizes: NDArray[np.int64]) -> float:
    """Return how many local steps a run has, on average over the cohorts that may be drawn."""
    client = experiment.client
    if client.steps is not None:
        of_each = float(client.steps * (sizes > 0).mean())
    else:
        of_each = float((-(-sizes // client.batch_size)).mean()) * (client.epochs or 1)
    given = experiment.strategy.arguments
    share = given.get("fraction_train", 1.0)
    cohort = len(sizes) * share if isinstance(share, int | float) else len(sizes)
    for key in ("cohort", "buffer_size"):
        if isinstance(given.get(key), int):
            cohort = given[key]
    return experiment.run.rounds * max(1.0, cohort) * of_each


def seconds_a_step(model: nn.Module, data: ModelData, batch_size: int) -> float:
    """Return the time of one step's gradient, the faster of two."""
    count = min(batch_size, TIMED_EXAMPLES)
    own = copy.deepcopy(model).train()
    parameters = [p for p in own.parameters() if p.requires_grad]
    taken = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            began = time.perf_counter()
            outputs = own(data.inputs.blank(count))
            loss = data.task.mean_loss(outputs, data.task.blank_targets(count))
            torch.autograd.grad(loss, parameters, allow_unused=True)
            taken.append(time.perf_counter() - began)
    return min(taken) * batch_size / count


def _of_a_client(client: ClientSettings) -> str:
    if client.steps is not None:
        return f"client.steps = {client.steps}"
    return f"client.epochs = {client.epochs or 1}"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 48:
        return f"{hours:.0f} hours"
    days = hours / 24
    return f"{days:.0f} days" if days < 730 else f"{days / 365:.0f} years"
