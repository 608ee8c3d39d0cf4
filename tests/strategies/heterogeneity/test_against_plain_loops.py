"""SCAFFOLD, FedDyn, FedNova and FedExP against the papers' algorithms, written as plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor, nn

from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.settings import ClientSettings
from atoll.randomness import derive_seed
from atoll.strategies import SCAFFOLD, FedDyn, FedExP, FedNova
from tests.support.strategies.small_federation import SmallFederation, make_federation, values

LAYOUT: Sequence[Mapping[str, int]] = [{"photo": 9, "art": 4}, {"art": 9, "sketch": 5}, {"art": 3}]
ROUNDS, LEARNING_RATE = 4, 0.3
MODELS = {"network": "double_model", "convex": f"{__name__}:logistic_regression"}
Examples = tuple[Tensor, Tensor]
Vector = list[Tensor]


class Logistic(nn.Module):
    """A linear model in double precision: its loss is convex."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.double().flatten(1))


def logistic_regression(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Logistic(int(np.prod(image_shape)), classes)


class Plain:
    """The clients of a federation, and a client's gradient steps, without any of our training."""

    def __init__(self, federation: SmallFederation, settings: ClientSettings, folder: Path) -> None:
        self.model = copy.deepcopy(federation.model)
        images = torch.cat([part[0] for part in federation.data.values()])
        labels = torch.cat([part[1] for part in federation.data.values()])
        partition = Partition(folder / "parts")
        self.examples = [
            (images[chosen], labels[chosen])
            for chosen in (partition.indices(place).copy() for place in range(len(LAYOUT)))
        ]
        self.settings = settings
        self.start = [p.detach().clone() for p in self.model.parameters()]
        self.counts = torch.tensor([len(labels) for _, labels in self.examples]).double()

    def gradient(self, at: Vector, examples: Examples) -> Vector:
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), at, strict=True):
                parameter.copy_(value)
        loss = F.cross_entropy(self.model(examples[0]), examples[1])
        return list(torch.autograd.grad(loss, list(self.model.parameters())))

    def steps(
        self, client: int, number: int, start: Vector, correct: Callable[[Vector, Vector], Vector]
    ) -> tuple[Vector, int]:
        """Return a client's parameters and steps; ``correct`` makes directions of gradients."""
        images, labels = self.examples[client]
        generator = torch.Generator().manual_seed(derive_seed(3, number, "train", client))
        at, taken, momentum = start, 0, [torch.zeros_like(p) for p in start]
        for _ in range(self.settings.epochs or 1):
            order = torch.randperm(len(labels), generator=generator)
            for chosen in order.split(self.settings.batch_size):
                direction = correct(at, self.gradient(at, (images[chosen], labels[chosen])))
                momentum = add(direction, momentum, self.settings.momentum)
                at, taken = add(at, momentum, -LEARNING_RATE), taken + 1
        return at, taken


def add(first: Vector, second: Vector, factor: float = 1.0) -> Vector:
    return [a + factor * b for a, b in zip(first, second, strict=True)]


def mean_of(vectors: Sequence[Vector], weights: Tensor | None = None) -> Vector:
    shares = torch.ones(len(vectors)).double() if weights is None else weights
    shares = shares / shares.sum()
    return [
        sum(w * part for w, part in zip(shares, parts, strict=True))  # type: ignore[misc]
        for parts in zip(*vectors, strict=True)
    ]


def scaffold(plain: Plain, option: int, server_rate: float) -> Vector:
    x, control = plain.start, [torch.zeros_like(p) for p in plain.start]
    own = [control for _ in plain.examples]
    for number in range(1, ROUNDS + 1):
        moves, changes = [], []
        for client, examples in enumerate(plain.examples):
            offset = add(control, own[client], -1.0)
            y, taken = plain.steps(client, number, x, lambda at, g, o=offset: add(g, o))  # type: ignore[misc]
            if option == 1:
                new = plain.gradient(x, examples)
            else:
                new = add(
                    add(own[client], control, -1.0),
                    add(x, y, -1.0),
                    1 / (taken * LEARNING_RATE),
                )
            moves.append(add(y, x, -1.0))
            changes.append(add(new, own[client], -1.0))
            own[client] = new
        x = add(x, mean_of(moves), server_rate)
        control = add(control, mean_of(changes))
    return x


def fed_dyn(plain: Plain, alpha: float) -> Vector:
    x, h = plain.start, [torch.zeros_like(p) for p in plain.start]
    own = [h for _ in plain.examples]
    for number in range(1, ROUNDS + 1):
        models = []
        for client in range(len(plain.examples)):

            def correct(at: Vector, g: Vector, x: Vector = x, client: int = client) -> Vector:
                return add(add(g, own[client], -1.0), add(at, x, -1.0), alpha)

            y, _ = plain.steps(client, number, x, correct)
            own[client] = add(own[client], add(y, x, -1.0), -alpha)
            models.append(y)
        h = add(h, add(mean_of(models), x, -1.0), -alpha)
        x = add(mean_of(models), h, -1 / alpha)
    return x


def fed_nova(plain: Plain, mu: float) -> Vector:
    x, shares, momentum = plain.start, plain.counts / plain.counts.sum(), plain.settings.momentum
    for number in range(1, ROUNDS + 1):
        normalised, effective = [], []
        for client in range(len(plain.examples)):
            start = x
            y, taken = plain.steps(
                client,
                number,
                x,
                lambda at, g, s=start: add(g, add(at, s, -1.0), mu),  # type: ignore[misc]
            )
            # The closed forms of the paper, section 4.
            if mu:
                norm = (1 - (1 - LEARNING_RATE * mu) ** taken) / (LEARNING_RATE * mu)
            else:
                lost = momentum * (1 - momentum**taken) / (1 - momentum)
                norm = (taken - lost) / (1 - momentum)
            normalised.append([part / norm for part in add(x, y, -1.0)])
            effective.append(float(taken) if mu else norm)
        tau = float(shares @ torch.tensor(effective, dtype=torch.float64))
        x = add(x, mean_of(normalised, shares), -tau)
    return x


def fed_exp(plain: Plain, epsilon: float) -> Vector:
    x, shares = plain.start, plain.counts / plain.counts.sum()
    for number in range(1, ROUNDS + 1):
        moves = [
            add(x, plain.steps(client, number, x, lambda at, g: g)[0], -1.0)
            for client in range(len(plain.examples))
        ]
        squares = torch.stack([sum(p.square().sum() for p in move) for move in moves])  # type: ignore[misc]
        mean = mean_of(moves, shares)
        of_mean = sum(float(p.square().sum()) for p in mean)
        step = max(1.0, float(shares @ squares) / (2 * (of_mean + epsilon)))
        x = add(x, mean, -step)
    return x


ALL = {"min_train_nodes": 3, "min_available_nodes": 3}
CASES: dict[str, tuple[Callable[[], Strategy], Callable[[Plain], Vector], dict[str, Any]]] = {
    "SCAFFOLD II": (lambda: SCAFFOLD(**ALL), lambda p: scaffold(p, 2, 1.0), {}),
    "SCAFFOLD I": (
        lambda: SCAFFOLD(option=1, server_learning_rate=0.7, **ALL),
        lambda p: scaffold(p, 1, 0.7),
        {},
    ),
    "FedDyn": (lambda: FedDyn(alpha=0.2, **ALL), lambda p: fed_dyn(p, 0.2), {}),
    "FedNova": (lambda: FedNova(**ALL), lambda p: fed_nova(p, 0.0), {}),
    "FedNova with momentum": (
        lambda: FedNova(**ALL),
        lambda p: fed_nova(p, 0.0),
        {"momentum": 0.6},
    ),
    "FedNova with FedProx": (
        lambda: FedNova(**ALL),
        lambda p: fed_nova(p, 0.5),
        {"proximal_mu": 0.5},
    ),
    "FedExP": (lambda: FedExP(epsilon=1e-6, **ALL), lambda p: fed_exp(p, 1e-6), {}),
}


def run(strategy: Strategy, federation: SmallFederation) -> dict[str, Any]:
    arrays, metrics = federation.arrays, {}
    for number in range(1, ROUNDS + 1):
        arrays, metrics = federation.round(strategy, number, arrays)
    return {**values(arrays), "metrics": metrics}


def federation_of(folder: Path, model: str, **keys: Any) -> tuple[SmallFederation, ClientSettings]:
    settings = ClientSettings(learning_rate=LEARNING_RATE, batch_size=4, epochs=2, **keys)
    return make_federation(folder, LAYOUT, client=settings, model=MODELS[model]), settings


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CASES)
def test_rounds_are_those_of_the_papers_algorithm(name: str, model: str, tmp_path: Path) -> None:
    make, reference, keys = CASES[name]
    federation, settings = federation_of(tmp_path, model, **keys)
    expected = reference(Plain(federation, settings, tmp_path))
    found = run(make(), federation)
    named = dict(federation.model.named_parameters())
    for key, wanted in zip(named, expected, strict=True):
        np.testing.assert_allclose(found[key], wanted.numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_each_changes_what_federated_averaging_comes_to(name: str, tmp_path: Path) -> None:
    make, _, keys = CASES[name]
    federation, _ = federation_of(tmp_path / "a", "network", **keys)
    averaged = run(FedAvg(**ALL), federation)
    other, _ = federation_of(tmp_path / "b", "network", **keys)
    found = run(make(), other)
    assert not np.allclose(found["head.weight"], averaged["head.weight"], atol=1e-6)


def test_a_server_step_of_one_and_equal_steps_are_federated_averaging(tmp_path: Path) -> None:
    """FedNova's factor is exactly 1 where all clients take as many steps."""
    settings = ClientSettings(learning_rate=LEARNING_RATE, batch_size=4, steps=3)
    federation = make_federation(tmp_path, LAYOUT, client=settings)
    averaged, _ = federation.round(FedAvg(**ALL))
    found, _ = federation.round(FedNova(**ALL))
    for key, value in values(averaged).items():
        np.testing.assert_allclose(values(found)[key], value, rtol=1e-13, atol=1e-15)


def test_only_the_drift_corrections_keep_state_with_nodes(tmp_path: Path) -> None:
    for name, kept in (("SCAFFOLD II", 1), ("FedDyn", 1), ("FedNova", 0), ("FedExP", 0)):
        federation, _ = federation_of(tmp_path / name, "convex")
        run(CASES[name][0](), federation)
        assert {len(state) for state in federation.grid.states.values()} == {kept}
