"""Fifty full-batch steps on Colored MNIST: federated against the Colored MNIST scripts.

The data are the first thousand images of each training domain of the IRM protocol. The federation
is float32, as it would run; the reference is float64, so that what differs is ours. With a new Adam
at the anneal step, whose first steps are along signs of gradients, both are float64.

The IRM protocol's steps: binary cross-entropy of one logit, an L2 term on all parameters, a penalty
whose weight jumps at the anneal step, the whole loss divided by it, Adam.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import ConfigRecord
from torch import Tensor, nn

from atoll.clients.apps.client_app import ClientSpec, make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset, Decoded, Split, write_dataset
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.mlp import irm_mlp
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.strategies import build_strategy
from tests.support.strategies.small_federation import LocalGrid

STEPS, ANNEAL, RATE, L2, WEIGHT = 50, 25, 4.898536566546834e-4, 1.10794568e-3, 91257.18613115903
EXAMPLES = 1000


def first_images() -> Decoded:
    """Return the start of both training domains of Colored MNIST."""
    data = load_dataset("colored-mnist", options={"preset": "tiny"}, seed=0)
    assert data.domains[:2] == ("e0.2", "e0.1")
    domains = data.train.domains
    assert domains is not None
    chosen = np.concatenate([np.flatnonzero(domains == d)[:EXAMPLES] for d in (0, 1)])
    split = Split(data.train.images[chosen], data.train.labels[chosen], domains[chosen])
    return Decoded(data.classes, split, split, data.domains[:2], (data.mean, data.std))


class Double(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.double()


def double_irm(image_shape: tuple[int, int, int], classes: int, hidden: int) -> nn.Module:
    return nn.Sequential(Double(), *irm_mlp(image_shape, classes, hidden)).double()


def clients_of(dataset: Dataset, sizes: list[int]) -> list[np.ndarray]:
    """Deal each domain to two unequal clients."""
    assert dataset.train.domains is not None
    parts = []
    for domain, size in enumerate(sizes):
        own = np.flatnonzero(dataset.train.domains == domain)
        parts += [own[:size], own[size:]]
    return parts


def head_parts(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return what penalties are made of; the last is the head's inputs times sqrt(curvature)."""
    z = model[:-1](images)
    z1 = torch.cat([z, torch.ones(len(z), 1).double()], 1)
    logit = model[-1](z)[:, 0]
    y = labels.double()
    loss = F.binary_cross_entropy_with_logits(logit, y)
    p = torch.sigmoid(logit)
    gradient = ((p - y)[:, None] * z1).mean(0)
    variance = (p * (1 - p))[:, None]
    squares = ((p - y)[:, None] * z1).square().mean(0)
    scale = ((p - y) * logit).mean()
    return loss, gradient, (variance * z1.square()).mean(0), squares, scale, variance.sqrt() * z1


def spread(values: list[Tensor]) -> Tensor:
    mean = sum(values) / 2
    return sum((value - mean).square().sum() for value in values)


def hgp(parts: list[tuple[Tensor, ...]]) -> Tensor:
    """As the script: drawn to the mean Hessian times the mean gradient, differentiated too."""
    gradients = [p[1] for p in parts]
    hessians = [p[5].T @ p[5] / len(p[5]) for p in parts]
    target = (hessians[0] + hessians[1]) / 2 @ ((gradients[0] + gradients[1]) / 2)
    products = [h @ g for h, g in zip(hessians, gradients, strict=True)]
    return sum((p - target).square().sum() for p in products) + spread(gradients)


PENALTIES: dict[str, tuple[str, dict[str, Any], Callable[[Any], Tensor]]] = {
    "IRM": ("IRM", {}, lambda parts: (parts[0][4] ** 2 + parts[1][4] ** 2) / 2),
    "V-REx": ("VREx", {"over_pairs": True}, lambda parts: (parts[0][0] - parts[1][0]) ** 2),
    "Fishr": (
        "Fishr",
        {"decay": 0.0, "reduction": "sum", "sum_over_domains": True},
        lambda parts: spread([p[3] - p[1] ** 2 for p in parts]),
    ),
    "Hutchinson": (
        "Hutchinson",
        {"alpha": 1.0, "beta": 1.0, "sum_over_domains": True},
        lambda parts: spread([p[2] for p in parts]) + spread([p[1] for p in parts]),
    ),
    "HGP": (
        "HGP",
        {"alpha": 1.0, "beta": 1.0, "sum_over_domains": True, "target": "attached"},
        hgp,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "reset",
    [False, pytest.param(True, marks=pytest.mark.long)],
    ids=["as the script", "with a new Adam"],
)
@pytest.mark.parametrize("method", PENALTIES)
def test_parameters_stay_together_through_the_anneal_step(
    method: str, reset: bool, tmp_path: Path
) -> None:
    name, arguments, penalty = PENALTIES[method]
    write_to = tmp_path / "data"
    write_to.mkdir()
    write_dataset("first images", first_images(), write_to)
    dataset = Dataset(write_to)
    parts = clients_of(dataset, [100, 500])
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts" / "offsets.npy", np.cumsum([0, *map(len, parts)]))
    np.save(tmp_path / "parts" / "indices.npy", np.concatenate(parts))
    name_of_model = f"{__name__}:double_irm" if reset else "mlp-irm"
    model_settings = ModelSettings(name=name_of_model, hidden=24)
    spec = ClientSpec(
        dataset=write_to,
        partition=tmp_path / "parts",
        model=model_settings,
        client=ClientSettings(batch_size=5000),
        num_rounds=STEPS,
        seed=0,
    )
    model = build_model(model_settings, dataset.image_shape, 2, seed=1)
    strategy = build_strategy(
        name,
        {
            **arguments,
            "penalty_weight": WEIGHT,
            "initial_penalty_weight": 1.0,
            "anneal_rounds": ANNEAL,
            "l2": L2,
            "client_update": "gradient",
            "server_optimizer": "adam",
            "server_learning_rate": RATE,
            "reset_optimizer": reset,
            "rescale_loss": not reset,
        },
    )
    grid, arrays = LocalGrid(make_client_app(spec), len(parts)), ModelArrays(model).read()
    initial = {key: array.numpy() for key, array in arrays.items()}
    reference = copy.deepcopy(model).double()
    optimizer = torch.optim.Adam(reference.parameters(), RATE)
    images = to_tensor(dataset.train.images.copy(), dataset.mean, dataset.std).double()
    labels = torch.from_numpy(dataset.train.labels.copy())
    assert dataset.train.domains is not None
    own = [torch.from_numpy(np.flatnonzero(dataset.train.domains == d)) for d in (0, 1)]
    for step in range(STEPS):
        messages = list(strategy.configure_train(step + 1, arrays, ConfigRecord(), grid))
        after, _ = strategy.aggregate_train(step + 1, grid.send_and_receive(messages))
        assert after is not None
        arrays = after
        found = [head_parts(reference, images[chosen], labels[chosen]) for chosen in own]
        weight = WEIGHT if step >= ANNEAL else 1.0
        loss = (found[0][0] + found[1][0]) / 2
        loss = loss + L2 * sum(p.square().sum() for p in reference.parameters())
        loss = loss + weight * penalty(found)
        if weight > 1.0 and not reset:
            loss = loss / weight
        if step == ANNEAL and reset:
            optimizer = torch.optim.Adam(reference.parameters(), RATE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for key, value in reference.state_dict().items():
        assert np.abs(arrays[key].numpy() - value.numpy()).max() < (1e-9 if reset else 1e-4)
    assert max(np.abs(arrays[key].numpy() - value).max() for key, value in initial.items()) > 1e-2
