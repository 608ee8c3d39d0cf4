"""The simulated client against the real one, and against autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.threat.victim_units import soft_loss
from atoll.errors import AttackError
from tests.support.attacks.real_updates import assert_simulates, client_update

KNOWN = ThreatModel.of(Capability.TRAINING, Capability.BATCH_ORDER, Capability.LABELS)
MLP = {"name": "mlp", "hidden": [16]}


@pytest.mark.parametrize(
    ("model", "client"),
    [
        (MLP, {"batch_size": 8}),
        (MLP, {"batch_size": 3, "epochs": 2, "momentum": 0.9, "weight_decay": 0.01}),
        (MLP, {"batch_size": 4, "steps": 3, "gradient_clip": 0.1}),
        (MLP, {"batch_size": 4, "epochs": 2, "proximal_mu": 0.5}),
        ({"name": "resnet8"}, {"batch_size": 2, "epochs": 2}),
        ({"name": "resnet8", "norm": "batch"}, {"batch_size": 4, "epochs": 2}),
        ({"name": "resnet8", "norm": "frozen"}, {"batch_size": 4, "epochs": 1}),
    ],
)
def test_it_sends_what_the_real_client_sends(model: dict[str, Any], client: dict[str, Any]) -> None:
    capture, truth = client_update(model, {"learning_rate": 0.2, **client}, list(range(6)))
    assert_simulates(capture, truth, KNOWN, (2e-4, 1e-6))


@pytest.mark.parametrize("client", [{"batch_size": 2}, {"batch_size": 1, "epochs": 2}])
def test_a_stack_is_what_its_candidates_are_one_by_one(client: dict[str, Any]) -> None:
    capture, _ = client_update(MLP, client, [0, 1])
    simulation = ClientSimulation.of(observe(capture, ThreatModel.of(Capability.TRAINING)))
    images = torch.randn(3, 2, 1, 8, 8, requires_grad=True)
    labels = torch.tensor([[1, 2], [3, 3], [0, 9]])
    together = simulation.stacked(images, labels)
    apart = [simulation(i, t) for i, t in zip(images, labels, strict=True)]
    for tensor, ones in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(tensor, torch.stack(ones))
    total = sum(tensor.square().sum() for tensor in together)
    of_one = sum(tensor.square().sum() for tensor in apart[1])
    [gradient] = torch.autograd.grad(total, images)
    [own] = torch.autograd.grad(of_one, images)
    torch.testing.assert_close(gradient[1], own[1])


def test_the_derivative_through_several_steps_is_right() -> None:
    client = {"batch_size": 1, "epochs": 2, "momentum": 0.5, "learning_rate": 0.5}
    capture, _ = client_update({"name": "mlp", "hidden": [4]}, client, [0, 1])
    simulation = ClientSimulation.of(observe(capture, ThreatModel.of(Capability.TRAINING)))
    module = simulation.model.module.double()
    simulation.model.parameters = {k: p.detach() for k, p in module.named_parameters()}
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 2])
    direction = torch.randn_like(images)

    def value(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([u.sin().sum() for u in simulation(x, labels)]).sum()

    [gradient] = torch.autograd.grad(value(images), images)
    step = 1e-5
    with torch.no_grad():
        slope = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-8)


def test_a_mimic_acts_on_what_is_sent() -> None:
    capture, _ = client_update(MLP, {"batch_size": 2}, [0, 1])
    known = ThreatModel.of(Capability.TRAINING, Capability.DEFENSE)
    observation = observe(capture, known, mimic=lambda update: tuple(2 * u for u in update))
    images, labels = torch.randn(3, 2, 1, 8, 8), torch.zeros(3, 2).long()
    plain = ClientSimulation(observation.model, observation.training, 2).stacked(images, labels)
    mimicked = ClientSimulation.of(observation).stacked(images, labels)
    for one, other in zip(plain, mimicked, strict=True):
        torch.testing.assert_close(2 * one, other)


def test_probabilities_and_labels_give_the_same_loss() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(soft_loss(logits, labels), soft_loss(logits, one_hot))
    single, binary = torch.randn(4, 1), torch.tensor([0, 1, 1, 0])
    pairs = torch.nn.functional.one_hot(binary, 2).float()
    torch.testing.assert_close(soft_loss(single, binary), soft_loss(single, pairs))


def test_steps_of_adam_are_refused() -> None:
    capture, _ = client_update(MLP, {"optimizer": "adam"}, [0, 1])
    with pytest.raises(AttackError, match=r"client\.optimizer = 'adam'.*expected 'sgd'"):
        ClientSimulation.of(observe(capture, ThreatModel.of(Capability.TRAINING)))
