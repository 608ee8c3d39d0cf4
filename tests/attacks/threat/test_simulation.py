"""The simulated client against the real one, and against autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.threat.victim_units import soft_loss
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


ADAMS = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 0.1, "gradient_clip": 0.05},
    {"optimizer": "adamw", "weight_decay": 0.1, "proximal_mu": 0.5},
]


@pytest.mark.parametrize("optimizer", ADAMS)
def test_it_sends_what_a_client_with_adam_sends(optimizer: dict[str, Any]) -> None:
    client = {"batch_size": 3, "epochs": 2, "learning_rate": 0.01, **optimizer}
    capture, truth = client_update(MLP, client, list(range(6)))
    # Rounding decides about gradients that are as small as Adam's epsilon.
    assert_simulates(capture, truth, KNOWN, (1e-2, 1e-6))


@pytest.mark.parametrize("optimizer", ADAMS[:2])
def test_the_derivative_through_adam_is_that_of_the_formula(optimizer: dict[str, Any]) -> None:
    client = {"batch_size": 1, "epochs": 2, "learning_rate": 0.01, **optimizer}
    capture, _ = client_update({"name": "lenet-sigmoid"}, client, [0, 1])
    simulation = ClientSimulation.of(observe(capture, ThreatModel.of(Capability.TRAINING)))
    module = simulation.model.module.double()
    simulation.model.parameters = {k: p.detach() for k, p in module.named_parameters()}
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 2])
    [ours] = torch.autograd.grad(_sum_of_sines(simulation(images, labels)), images)
    theirs = _by_formula(module, client, images, labels)
    [wanted] = torch.autograd.grad(_sum_of_sines(theirs), images)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-9)


def _sum_of_sines(update: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.sin().sum() for tensor in update]).sum()


def _by_formula(
    module: nn.Module, client: dict[str, Any], images: torch.Tensor, labels: torch.Tensor
) -> list[torch.Tensor]:
    """The pseudo-gradient of four steps as Kingma and Ba (2015, algorithm 1) write them."""
    names = [name for name, _ in module.named_parameters()]
    rate, decay = client["learning_rate"], client.get("weight_decay", 0.0)
    start = [p.detach() for p in module.parameters()]
    now = [p.clone().requires_grad_() for p in start]
    first, second = [0.0 * p for p in start], [0.0 * p for p in start]
    for step in range(1, 5):
        own = slice((step - 1) % 2, (step - 1) % 2 + 1)
        output = torch.func.functional_call(module, dict(zip(names, now, strict=True)), images[own])
        loss = torch.nn.functional.cross_entropy(output, labels[own])
        gradients = torch.autograd.grad(loss, now, create_graph=True)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        factor = (client.get("gradient_clip", 1e9) / (norm + 1e-6)).clamp(max=1.0)
        total = [g * factor + decay * p for g, p in zip(gradients, now, strict=True)]
        first = [0.9 * m + 0.1 * g for m, g in zip(first, total, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, total, strict=True)]
        now = [
            p
            - rate
            * (m / (1 - 0.9**step))
            / ((v / (1 - 0.999**step)).clamp_min(1e-60).sqrt() + 1e-8)
            for p, m, v in zip(now, first, second, strict=True)
        ]
    return [(before - after) / rate for before, after in zip(start, now, strict=True)]
