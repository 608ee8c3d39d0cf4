import math

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from scipy import stats

from atoll.attacks.defenses.local_dp import LocalDP
from tests.attacks.defenses.base.test_privacy_accounting import exact_epsilon
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


def test_it_is_flowers_clipping_and_noise() -> None:
    step = a_step(a_model())
    plain = flat(gradient(a_task(step)))
    bound = float(plain.norm()) / 2
    defense = LocalDP(clipping_norm=bound, epsilon=50.0)
    assert defense.std == pytest.approx(2 * bound * math.sqrt(2 * math.log(1.25e5)) / 50)
    defended = flat(defense.apply(a_task(step), gradient))
    noise = (defended - plain / 2) / defense.std
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-3


def test_the_global_generator_of_numpy_is_left_as_it_was() -> None:
    step = a_step(a_model("linear"))
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    LocalDP().apply(a_task(step), gradient)
    assert np.random.rand() == expected


def test_it_applies_where_no_flower_app_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, None)
    step = a_step(a_model("linear"))
    assert torch.isfinite(flat(LocalDP().apply(a_task(step), gradient))).all()


def test_a_clients_rounds_add_up() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    defense = LocalDP(clipping_norm=1.0, epsilon=1.0)
    spent = [defense.metrics(context, [])["epsilon"] for _ in range(3)]
    multiplier = math.sqrt(2 * math.log(1.25e5))
    for uses, epsilon in enumerate(spent, 1):
        exact = exact_epsilon(multiplier, uses, 1e-5)
        assert epsilon == pytest.approx(exact, rel=1e-9)
    # The classical bound of one round holds.
    assert spent[0] <= 1.0


def test_a_sensitivity_too_small_costs_more_than_the_epsilon_that_was_asked_for() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    defense = LocalDP(clipping_norm=1.0, sensitivity=0.5, epsilon=1.0)
    assert defense.metrics(context, [])["epsilon"] > 3.0


def test_what_is_sent_does_not_tell_more_than_the_clipped_norm() -> None:
    step = a_step(a_model("linear"))
    observed = LocalDP(clipping_norm=1e-6, epsilon=100.0).apply(a_task(step), gradient)
    estimate = LocalDP.estimate(observed, step.model)
    assert estimate.figures["bound"] >= 1e-6
    assert torch.isfinite(flat(LocalDP.mimic(gradient(a_task(step)), estimate))).all()
