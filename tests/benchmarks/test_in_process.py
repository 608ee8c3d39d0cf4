"""Rounds of the accuracy benchmarks, in one process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from atoll import Experiment
from atoll.clients import evaluate
from atoll.clients.data.files.dataset import Dataset
from atoll.flower import assume_identity
from atoll.platform.runs.federation import Federation, prepare
from benchmarks.accuracy.in_process import LocalClients, mean_of, rounds_of, strategy_rounds


@pytest.fixture(autouse=True)
def identity() -> None:
    assume_identity()


def federation(**data: Any) -> Federation:
    tables = {
        "run": {"seed": 3, "rounds": 3},
        "data": {"clients": 4, "train_examples": 200, **data},
        "model": {"name": "linear"},
        "client": {"learning_rate": 0.1},
    }
    return prepare(Experiment.from_dict(tables))


def test_rounds_that_are_not_evaluated_change_no_other_figure() -> None:
    of_all = list(rounds_of(federation(dataset="digits"), 3, 100))
    of_last = list(rounds_of(federation(dataset="digits"), 3, 100, evaluate_every=3))
    assert [math.isnan(one.accuracy) for one in of_last] == [True, True, False]
    assert of_last[-1] == of_all[-1]
    assert [one.bytes_up for one in of_last] == [one.bytes_up for one in of_all]


def test_the_server_tests_on_the_first_examples_of_each_domain() -> None:
    parts = federation(dataset="rotated-digits", partition={"name": "domain"})
    dataset = Dataset(parts.spec.dataset)
    domains = np.array(dataset.test.domains)
    chosen = np.concatenate([np.flatnonzero(domains == d)[:7] for d in np.unique(domains)])
    assert len(chosen) == 7 * len(dataset.domains)
    arrays = mean_of(LocalClients(parts).ask("train", 1, parts.initial_arrays))
    model = parts.spec.build_model(dataset)
    parts.spec.arrays_of(model).load(arrays)
    expected = evaluate(model, dataset, dataset.test, chosen)["accuracy"]
    [found] = rounds_of(parts, 1, 7)
    assert found.accuracy == pytest.approx(float(expected))


def test_fedavg_comes_to_the_mean_of_the_replies() -> None:
    averaged = list(rounds_of(federation(dataset="digits"), 2, 360))
    by_strategy = list(strategy_rounds(federation(dataset="digits"), 2, 360))
    assert [one.accuracy for one in by_strategy] == pytest.approx(
        [one.accuracy for one in averaged], abs=0.003
    )
