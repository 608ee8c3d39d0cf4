"""Distances against whole Hessians; the transfer measure against a closed form and brute force."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.models.head_outputs import HeadOutputs
from atoll.strategies import build_strategy
from atoll.strategies.alignment.diagnostics import DELTA, measure_diagnostics
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.alignment.moments.moment_exchange import MomentExchange, Traffic
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import LAYOUTS, make_federation

SPLIT = LAYOUTS["domains split over unequal clients"]


def sigmoid_head(features: Tensor, labels: Tensor, head: nn.Module) -> HeadOutputs:
    logits = head(features).detach()
    return HeadOutputs(features, logits, labels, torch.arange(len(labels)), head, ())


def test_they_are_distances_of_gradients_and_hessians(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, SPLIT)
    strategy = build_strategy("ERM", {"diagnostics_every": 1})
    random.seed(0)
    _, metrics = federation.round(strategy)
    domains = c.make_domains(federation.model, federation.data)
    gradients = torch.stack([d.gradient() for d in domains]).detach()
    hessians = torch.stack([d.hessian() for d in domains]).detach()
    losses = torch.stack([d.loss for d in domains]).detach()
    for place, name in enumerate(sorted(federation.data)):
        gradient = (gradients[place] - gradients.mean(0)).norm()
        difference = hessians[place] - hessians.mean(0)
        spectral = torch.linalg.eigvalsh(difference).abs().max()
        assert metrics[f"gradient_distance_{name}"] == pytest.approx(float(gradient), rel=1e-9)
        # 16 probes: a relative standard error of about sqrt(2 / 16) of the square at most.
        found = metrics[f"hessian_distance_{name}"]
        assert found == pytest.approx(float(difference.norm()), rel=0.35)
        bound = metrics[f"hessian_spectral_distance_{name}"]
        assert 0.9 * float(spectral) <= bound <= float(spectral) * (1 + 1e-9)
        others = (losses.sum() - losses[place]) / 2
        assert metrics[f"transfer_{name}"] > float(losses[place] - others)
    _, quiet = federation.round(build_strategy("ERM", {"diagnostics_every": 2}))
    assert not [key for key in quiet if key.startswith(("gradient_distance", "transfer"))]


@pytest.mark.parametrize("model", ["double_model", "double_model_with_a_deep_head"])
def test_the_same_whether_clients_answer_or_outputs_are_at_hand(model: str, tmp_path: Path) -> None:
    federation = make_federation(tmp_path, SPLIT, model=model)
    network = federation.model
    outputs = {}
    for name, (images, labels, places) in federation.data.items():
        features = network.body(images.double()).detach()
        logits = network.head(features).detach()
        outputs[name] = HeadOutputs(features, logits, labels, places, network.head, ())
    exchange = MomentExchange(federation.grid, federation.arrays, 1, None, Traffic())
    counts = {
        node: dict(zip(client, map(int, client.values()), strict=True))
        for node, client in enumerate(SPLIT, 1)
    }
    asked = measure_diagnostics(Domains(exchange, counts), seed=5)
    here = measure_diagnostics(Domains.of_outputs(outputs), seed=5)
    assert asked == pytest.approx(here, rel=1e-8)
    held_out = measure_diagnostics(Domains.of_outputs(outputs), 5, ("art",))
    assert {key.rpartition("_")[2] for key in held_out} == {"art"}
    # The mean of the three has a third of the domain itself in it.
    for measure in ("gradient_distance_art", "hessian_distance_art"):
        assert held_out[measure] == pytest.approx(1.5 * here[measure], rel=1e-8)
    assert held_out["transfer_art"] == pytest.approx(here["transfer_art"], rel=1e-12)


def test_with_labels_reversed_the_transfer_measure_has_a_closed_form() -> None:
    """L_T - L_S is the mean of (2 y - 1) logit: linear in the head, largest along its gradient."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(5, 1).double()
    features = torch.randn(40, 5, generator=generator).double()
    labels = torch.randint(0, 2, (40,), generator=generator)
    outputs = {
        "source": sigmoid_head(features, labels, head),
        "target": sigmoid_head(features, 1 - labels, head),
    }
    found = measure_diagnostics(Domains.of_outputs(outputs), 0, ("target",))
    signs = 2.0 * labels - 1
    slope = (signs[:, None] * torch.cat([features, torch.ones(40, 1)], 1)).mean(0)
    expected = (signs * outputs["source"].logits[:, 0]).mean() + DELTA * slope.norm()
    assert found["transfer_target"] == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_on_two_parameters_it_is_what_a_grid_finds(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(1, 1).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    outputs = {}
    for name in ("a", "b", "target"):
        shift = torch.randn(1, generator=generator)
        features = (torch.randn(30, 1, generator=generator) + shift).double()
        labels = torch.randint(0, 2, (30,), generator=generator)
        outputs[name] = sigmoid_head(features, labels, head)
    found = measure_diagnostics(Domains.of_outputs(outputs), 0, ("target",))["transfer_target"]

    def risk(name: str, weight: Tensor, bias: Tensor) -> Tensor:
        own = outputs[name]
        logits = weight[:, None] * own.features[:, 0] + bias[:, None]
        signs = 2.0 * own.labels - 1
        return F.softplus(-signs * logits).mean(1)

    radius, angle = np.meshgrid(np.linspace(0, DELTA, 81), np.linspace(0, 2 * np.pi, 361))
    weight = float(head.weight.detach()) + torch.tensor(radius * np.cos(angle)).reshape(-1)
    bias = float(head.bias.detach()) + torch.tensor(radius * np.sin(angle)).reshape(-1)
    excess = risk("target", weight, bias) - (risk("a", weight, bias) + risk("b", weight, bias)) / 2
    assert found == pytest.approx(float(excess.max()), rel=0.01)
    assert found <= float(excess.max()) + 1e-3
