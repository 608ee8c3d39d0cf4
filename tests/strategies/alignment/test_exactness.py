"""Federated == centralised, for every exact method and every way to lay domains out on clients.

Inexact, and why: Mixup (clients cannot mix with other clients' examples), any method with several
local steps or mini-batches (moments are those of the broadcast parameters), FedGMA and FedDGGA
(functions of clients' updates, not of domains' losses).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.clients.moments.head_statistics import rademacher
from atoll.randomness import derive_seed
from atoll.strategies import build_strategy
from atoll.strategies.alignment.alignment_method import FIXED_SEED
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import (
    LAYOUTS,
    SmallFederation,
    make_federation,
    values,
)

pytestmark = pytest.mark.slow

TOLERANCE = 1e-10
NOW = {"anneal_rounds": 0}
BOTH = {"alpha": 0.7, "beta": 0.3}
FIXED = {"stale_moments": True}


def head_size(outputs: int) -> int:
    return outputs * 5


def shared(outputs: int) -> c.Penalty:
    return c.shared_probes(rademacher(FIXED_SEED, (2, head_size(outputs))).double())


def independent(outputs: int, detached: bool) -> c.Penalty:
    h = head_size(outputs)
    own = [
        rademacher(derive_seed(FIXED_SEED, name), (20, h)).double()
        for name in sorted(("photo", "art", "sketch"))
    ]
    return c.independent_probes(own, rademacher(FIXED_SEED, (20, h)).double(), detached)


# Name: the strategy, its arguments, the centralised penalty, its weight.
METHODS: dict[str, tuple[str, dict[str, Any], Any, float]] = {
    "ERM": ("ERM", {}, c.none, 0.0),
    "IRM": ("IRM", NOW, c.irm, 100.0),
    "IRM as released": ("IRM", {**NOW, "as_released": True}, c.irm_released, 100.0),
    "V-REx": ("VREx", NOW, c.vrex, 10.0),
    "V-REx over pairs": (
        "VREx",
        {**NOW, "over_pairs": True},
        c.vrex_over_pairs,
        10.0,
    ),
    "gradient alignment": ("GradientAlignment", {"penalty_weight": 2.0}, c.gradients, 2.0),
    "gradient norm": ("GradientNorm", {"penalty_weight": 2.0}, c.gradient_norm, 2.0),
    "IGA": ("IGA", {"penalty_weight": 2.0}, c.iga, 2.0),
    "Fishr": ("Fishr", {**NOW, "decay": 0.0}, c.fishr, 1000.0),
    "CORAL": ("CORAL", {}, c.coral, 1.0),
    "MMD": ("MMD", {"penalty_weight": 5.0}, c.mmd, 5.0),
    "HGP": ("HGP", BOTH, c.hgp("detached"), 1.0),
    "HGP to the mean": ("HGP", {**BOTH, "target": "mean"}, c.hgp("mean"), 1.0),
    "HGP attached": ("HGP", {**BOTH, "target": "attached"}, c.hgp("attached"), 1.0),
    "Hutchinson exact": ("Hutchinson", BOTH, c.diagonal, 1.0),
    "Hutchinson shared": (
        "Hutchinson",
        {**BOTH, **FIXED, "estimator": "shared-probes", "probes": 2},
        shared,
        1.0,
    ),
    "Hutchinson as released": (
        "Hutchinson",
        {**BOTH, **FIXED, "as_released": True, "probes": 20},
        lambda outputs: independent(outputs, True),
        1.0,
    ),
    "Hutchinson attached": (
        "Hutchinson",
        {**BOTH, **FIXED, "as_released": True, "probes": 20, "attached_target": True},
        lambda outputs: independent(outputs, False),
        1.0,
    ),
    "CMA": ("CMA", {**BOTH, "classes": 3}, c.cma, 1.0),
    "GroupDRO": ("GroupDRO", {"eta": 0.5}, c.group_dro, 1.0),
    "EQRM": ("EQRM", {**NOW, "quantile_learning_rate": None}, c.quantile, 1.0),
    "EQRM as released": (
        "EQRM",
        {**NOW, "quantile_learning_rate": None, "as_released": True},
        c.quantile_released,
        1.0,
    ),
    "SD": ("SD", {"weight": 0.3}, c.squared_logits, 0.3),
    "FedL2R": ("FedL2R", {"weight": 0.3}, c.squared_features, 0.3),
}
QUADRATIC = (
    "V-REx",
    "gradient alignment",
    "IGA",
    "Hutchinson exact",
    "Hutchinson shared",
    "CMA",
)
SEEDED = ("Hutchinson shared", "Hutchinson as released", "Hutchinson attached")


def federated_gradient(
    federation: SmallFederation, name: str, arguments: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return what a round of unit step took from the parameters."""
    update = {
        "client_update": "gradient",
        "server_optimizer": "sgd",
        "server_learning_rate": 1.0,
        **arguments,
    }
    after, _ = federation.round(build_strategy(name, update))
    before = values(federation.arrays)
    return {key: before[key] - value for key, value in values(after).items()}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, Tensor], atol: float) -> None:
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize("weighting", ["uniform", pytest.param("examples", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "outputs", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["softmax", "sigmoid"]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_the_federated_gradient_is_the_centralised_one(
    method: str, layout: str, outputs: int, weighting: str, tmp_path: Path
) -> None:
    name, arguments, penalty, weight = METHODS[method]
    federation = make_federation(tmp_path, LAYOUTS[layout], outputs)
    if method in SEEDED:
        penalty = penalty(outputs)
    if method == "V-REx over pairs" and weighting == "examples":
        # The formula over pairs is for domains that count the same.
        penalty = lambda domains, w: 3 * c.vrex(domains, w)  # noqa: E731
    expected = c.objective_gradient(
        federation.model, federation.data, penalty, weight, weighting, l2=0.01
    )
    given = {**arguments, "domain_weights": weighting, "l2": 0.01}
    found = federated_gradient(federation, name, given)
    # The reference quantile's own gradient is a difference quotient.
    size = max(1.0, *(float(value.abs().max()) for value in expected.values()))
    assert_equal(found, expected, 1e-6 if method == "EQRM" else TOLERANCE * size)
    if weight:
        plain = c.objective_gradient(
            federation.model, federation.data, c.none, 0.0, weighting, l2=0.01
        )
        distance = max(float((plain[k] - v).abs().max()) for k, v in expected.items())
        assert distance > 1e-5, "the penalty changes nothing, so nothing was tested"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("update", "method"),
    [("cotangent", m) for m in METHODS] + [("quadratic", m) for m in QUADRATIC],
)
def test_one_full_batch_step_of_clients_is_that_gradient_too(
    method: str, layout: str, update: str, tmp_path: Path
) -> None:
    name, arguments, penalty, weight = METHODS[method]
    federation = make_federation(tmp_path, LAYOUTS[layout])
    if method in SEEDED:
        penalty = penalty(3)
    expected = c.objective_gradient(federation.model, federation.data, penalty, weight, "uniform")
    strategy = build_strategy(name, {**arguments, "client_update": update})
    after, metrics = federation.round(strategy)
    before = values(federation.arrays)
    # The client's learning rate is a half.
    found = {key: 2 * (before[key] - value) for key, value in values(after).items()}
    size = max(1.0, *(float(value.abs().max()) for value in expected.values()))
    assert_equal(found, expected, 1e-6 if method == "EQRM" else TOLERANCE * size)
    assert metrics["drift"] == 0.0


def test_the_gradient_norm_is_the_closed_form_and_has_no_spread_in_it(tmp_path: Path) -> None:
    for place, layout in enumerate(LAYOUTS.values()):
        federation = make_federation(tmp_path / str(place), layout)
        images, labels, _ = (
            torch.cat(parts)
            for parts in zip(*(federation.data[n] for n in sorted(federation.data)), strict=True)
        )
        sizes = [len(federation.data[name][1]) for name in sorted(federation.data)]
        # Domains count the same, so an example counts for 1 / (3 * the size of its domain).
        each = torch.cat([torch.full((n,), 1 / (3 * n), dtype=torch.float64) for n in sizes])
        with torch.no_grad():
            z = federation.model.body(images.double())  # type: ignore[union-attr, operator]
            residual = federation.model(images.double()).softmax(1) * each[:, None]
            residual -= torch.nn.functional.one_hot(labels, 3) * each[:, None]
            closed = torch.cat([residual.T @ z, residual.sum(0)[:, None]], 1).square().sum()
        values_of = {}
        for name in ("GradientNorm", "GradientAlignment"):
            arguments = {"client_update": "gradient", "server_optimizer": "sgd"}
            strategy = build_strategy(name, {**arguments, "server_learning_rate": 1.0})
            _, metrics = federation.round(strategy)
            values_of[name] = metrics["penalty"]
        np.testing.assert_allclose(values_of["GradientNorm"], float(closed), rtol=1e-10)
        domains = c.make_domains(federation.model, federation.data)
        norms = [float(domain.gradient().detach().square().sum()) for domain in domains]
        np.testing.assert_allclose(sum(values_of.values()), sum(norms) / 3, rtol=1e-10)


def test_a_deep_head_takes_the_same_penalties_by_autograd(tmp_path: Path) -> None:
    federation = make_federation(
        tmp_path, LAYOUTS["several domains on a client"], model="double_model_with_a_deep_head"
    )
    model = federation.model
    head = list(model.head.parameters())  # type: ignore[union-attr, operator]

    def loss_of(name: str) -> Tensor:
        images, labels, _ = federation.data[name]
        return torch.nn.functional.cross_entropy(model(images), labels)

    def flat(value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value, head, create_graph=True, retain_graph=True)
        return torch.cat([part.reshape(-1) for part in parts])

    losses = [loss_of(name) for name in sorted(federation.data)]
    gradients = [flat(loss) for loss in losses]
    products = [torch.stack([flat(entry) for entry in g]) @ g for g in gradients]
    mean = torch.stack(gradients).mean(0)
    wanted = torch.stack(products).mean(0)
    penalty = torch.stack([(p - wanted).square().sum() for p in products]).mean() * 0.7
    penalty = penalty + torch.stack([(g - mean).square().sum() for g in gradients]).mean() * 0.3
    total = torch.stack(losses).mean() + penalty
    names = [name for name, _ in model.named_parameters()]
    whole = torch.autograd.grad(total, list(model.parameters()))
    found = federated_gradient(federation, "HGP", {**BOTH, "target": "mean"})
    assert_equal(found, dict(zip(names, whole, strict=True)), TOLERANCE)


def test_the_moving_averages_of_fishr_and_fediir_are_kept_over_rounds(
    tmp_path: Path,
) -> None:
    federation = make_federation(tmp_path, LAYOUTS["domains split over unequal clients"])
    model = copy.deepcopy(federation.model)
    arguments = {
        "client_update": "gradient",
        "server_optimizer": "sgd",
        "server_learning_rate": 0.1,
    }
    for name, decay, extra in (
        ("Fishr", 0.9, NOW),
        ("FedIIR", 0.8, {}),
        ("FedIIR", 0.8, {"as_released": True}),
    ):
        strategy = build_strategy(
            name, {**arguments, **extra, "decay": decay, "penalty_weight": 5.0}
        )
        model.load_state_dict(federation.model.state_dict())
        arrays, average, share = federation.arrays, None, 0.0
        for number in (1, 2, 3):
            domains = c.make_domains(model, federation.data)
            w = torch.ones(3, dtype=torch.float64) / 3
            g = [d.gradient() for d in domains]
            if name == "Fishr":
                now = [d.squared_gradients() - x.square() for d, x in zip(domains, g, strict=True)]
                average = average or [torch.zeros_like(v) for v in now]
                ema = [decay * a + (1 - decay) * v for a, v in zip(average, now, strict=True)]
                average = [a.detach() for a in ema]
                corrected = [a / (1 - decay) for a in ema]
                penalty = c.to(w, corrected, c.mean(w, corrected)) / len(g[0])
            else:
                mean = c.mean(w, g).detach()
                average = decay * (0.0 if average is None else average) + (1 - decay) * mean
                share = decay * share + 1 - decay
                target = average if extra else average / share
                penalty = c.to(w, g, target)
            loss = c.mean(w, [d.loss for d in domains]) + 5.0 * penalty
            with torch.no_grad():
                for p, gradient in zip(
                    model.parameters(),
                    torch.autograd.grad(loss, list(model.parameters())),
                    strict=True,
                ):
                    p -= 0.1 * gradient
            arrays, _ = federation.round(strategy, number, arrays)
            for key, value in model.state_dict().items():
                np.testing.assert_allclose(values(arrays)[key], value.numpy(), atol=1e-10)
