"""Priors against their formulas, and at the truth."""

from __future__ import annotations

import pytest
import torch

from atoll.attacks.optim.priors import (
    batch_norm_statistics,
    batch_statistics,
    group_consistency,
    l2_norm,
    running_statistics,
    total_variation,
)
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.errors import AttackError
from tests.support.attacks.real_updates import client_update

BATCH_NORM = {"name": "resnet8", "norm": "batch"}


def test_total_variation_and_norm_are_those_of_each_candidate() -> None:
    images = torch.randn(3, 2, 1, 5, 4)
    one = images[1]
    down = torch.stack([(one[..., i + 1, :] - one[..., i, :]).abs() for i in range(4)]).mean()
    across = torch.stack([(one[..., i + 1] - one[..., i]).abs() for i in range(3)]).mean()
    torch.testing.assert_close(total_variation(images)[1], down + across)
    torch.testing.assert_close(l2_norm(images)[1], one.norm() / 20)


def test_total_variations_derivative_is_autograds() -> None:
    images = torch.randn(3, 2, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean((1, 2, 3, 4))
    across = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3, 4))
    [wanted] = torch.autograd.grad(((down + across) * weights).sum(), images)
    [found] = torch.autograd.grad((total_variation(images) * weights).sum(), images)
    torch.testing.assert_close(found, wanted)


def test_restarts_are_drawn_to_the_mean_of_their_own_victim() -> None:
    images = torch.randn(6, 2, 1, 3, 3, requires_grad=True)
    costs = group_consistency(3)(images)
    mean = images[3:].mean(0)
    torch.testing.assert_close(costs[4], (images[4] - mean).square().mean())
    [gradient] = torch.autograd.grad(costs[4], images)
    assert not gradient[[0, 1, 2, 3, 5]].any()
    torch.testing.assert_close(gradient[4], 2 * (images[4] - mean).detach() / 18)


def test_statistics_of_the_clients_batch_come_back_from_its_buffers() -> None:
    capture, truth = client_update(BATCH_NORM, {"batch_size": 4}, [0, 1, 2, 3])
    threat = ThreatModel.of(Capability.TRAINING, Capability.BUFFERS)
    observation = observe(capture, threat)
    assert observation.buffers is not None
    model = observation.model
    known = batch_statistics(model, observation.sent_buffers, observation.buffers)
    prior = batch_norm_statistics(model, [known, known])
    images = observation.space.normalize(truth.images)
    at_truth, elsewhere = prior(torch.stack([images, torch.randn_like(images)]))
    assert at_truth < 1e-3 * elsewhere
    torch.testing.assert_close(
        batch_norm_statistics(model, [known])(images[None])[0], at_truth, rtol=0, atol=1e-4
    )
    unknown = running_statistics(model, observation.sent_buffers)
    assert batch_norm_statistics(model, [unknown])(images[None])[0] > 10 * at_truth


def test_a_model_without_batch_norm_or_buffers_is_refused() -> None:
    capture, _ = client_update({"name": "mlp"}, {}, [0])
    model = observe(capture, ThreatModel()).model
    with pytest.raises(AttackError, match="has no BatchNorm layers"):
        batch_norm_statistics(model, [{}])
    capture, _ = client_update(BATCH_NORM, {}, [0])
    with pytest.raises(AttackError, match=r"there are no running statistics of '1'"):
        running_statistics(observe(capture, ThreatModel()).model, {})
