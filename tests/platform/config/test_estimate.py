"""The hours that a run will take, said before they begin."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.images import images_of
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.task import Task
from atoll.platform.config import estimate
from atoll.platform.config.estimate import local_steps, warn_of_a_long_run
from atoll.platform.config.experiment import Experiment

SIZES = np.array([100, 50, 0, 10])


@dataclass(frozen=True)
class Data:
    inputs: Inputs
    task: Task


DATA = Data(images_of((1, 8, 8)), Classification(classes=tuple("0123456789")))


def experiment(**tables: Any) -> Experiment:
    base: dict[str, Any] = {"run": {"rounds": 10}, "data": {"clients": 4}}
    return Experiment.from_dict({**base, **tables})


@pytest.mark.parametrize(
    ("tables", "steps"),
    [
        ({"client": {"batch_size": 20}}, 10 * (5 + 3 + 0 + 1)),
        ({"client": {"batch_size": 20, "epochs": 3}}, 30 * (5 + 3 + 0 + 1)),
        ({"client": {"steps": 7}}, 10 * 7 * 3),
        ({"client": {"steps": 7}, "strategy": {"fraction_train": 0.5}}, 10 * 7 * 3 / 2),
        ({"client": {"steps": 7}, "strategy": {"name": "FedBuff", "buffer_size": 2}}, 10 * 7 * 1.5),
    ],
)
def test_steps_are_counted_over_the_cohorts(tables: dict[str, Any], steps: float) -> None:
    assert local_steps(experiment(**tables), SIZES) == pytest.approx(steps)


def test_a_run_of_hours_says_so_and_a_short_one_is_not_timed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(ModelSettings(name="mlp"), (1, 8, 8), 10, 0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with caplog.at_level(logging.WARNING, logger="atoll"):
        long = experiment(run={"rounds": 10**6}, client={"steps": 10**6})
        warn_of_a_long_run(long, model, DATA, SIZES)
        assert torch.equal(torch.get_rng_state(), state)
        [record] = caplog.records
        assert "about 3e+12 local steps (run.rounds = 1000000, client.steps = 1000000)" in (
            record.getMessage()
        )
        assert record.getMessage().endswith(" of one core")
        caplog.clear()
        monkeypatch.setattr(estimate, "seconds_a_step", None)
        warn_of_a_long_run(experiment(), model, DATA, SIZES)
        assert not caplog.records
