"""Fifty full-batch steps on coloured digits: federated against the Colored MNIST script.

The federation is float32, as it would run; the reference is float64, so that what differs is ours.

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
from small_federation import LocalGrid
from torch import Tensor, nn

from atoll.clients.app import ClientSpec, make_client_app
from atoll.clients.data.catalog import load_dataset
from atoll.clients.data.store import Decoded, ImageDataset, Split, write_dataset
from atoll.clients.data.tensors import to_tensor
from atoll.clients.model_arrays import ModelArrays
from atoll.clients.models.build import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.strategies import build_strategy

STEPS, ANNEAL, RATE, L2, WEIGHT = 50, 25, 4.898536566546834e-4, 1.10794568e-3, 91257.18613115903
DOMAINS = {"0.2": 0.2, "0.1": 0.1}


def coloured_digits() -> Decoded:
    """Two domains of 8x8 digits on two colour planes; the label is digit < 5 with 25 % noise."""
    digits = load_dataset("digits").train
    generator = np.random.default_rng(0)
    noisy = (digits.labels < 5) ^ (generator.random(len(digits)) < 0.25)
    domains = np.arange(len(digits)) % 2
    flips = np.array(list(DOMAINS.values()))[domains]
    colours = noisy ^ (generator.random(len(digits)) < flips)
    images = np.zeros((*digits.images.shape[:3], 2), np.uint8)
    images[np.arange(len(digits)), :, :, colours.astype(int)] = digits.images[..., 0]
    split = Split(images, noisy.astype(np.int64), domains.astype(np.int64))
    return Decoded(("no", "yes"), split, split, tuple(DOMAINS))


def one_logit(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    inputs = int(np.prod(image_shape))
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 24),
        nn.ReLU(),
        nn.Linear(24, 24),
        nn.ReLU(),
        nn.Linear(24, 1),
    )


def clients_of(dataset: ImageDataset, sizes: list[int]) -> list[np.ndarray]:
    """Deal each domain to two unequal clients."""
    assert dataset.train.domains is not None
    parts = []
    for domain, size in enumerate(sizes):
        own = np.flatnonzero(dataset.train.domains == domain)
        parts += [own[:size], own[size:]]
    return parts


def head_parts(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return the loss, the head's gradient and its Hessian's diagonal and product with it."""
    z = model[:-1](images)
    z1 = torch.cat([z, torch.ones(len(z), 1).double()], 1)
    logit = model[-1](z)[:, 0]
    y = labels.double()
    loss = F.binary_cross_entropy_with_logits(logit, y)
    p = torch.sigmoid(logit)
    gradient = ((p - y)[:, None] * z1).mean(0)
    curvature = (p * (1 - p))[:, None] * z1
    product = (curvature * (z1 @ gradient)[:, None]).mean(0)
    squares = ((p - y)[:, None] * z1).square().mean(0)
    scale = ((p - y) * logit).mean()
    return loss, gradient, (curvature * z1).mean(0), product, squares, scale


def spread(values: list[Tensor]) -> Tensor:
    mean = sum(values) / 2
    return sum((value - mean).square().sum() for value in values)


def hgp(parts: list[tuple[Tensor, ...]]) -> Tensor:
    return spread([p[3] for p in parts]) + spread([p[1] for p in parts])


PENALTIES: dict[str, tuple[str, dict[str, Any], Callable[[Any], Tensor]]] = {
    "IRM": ("IRM", {}, lambda parts: (parts[0][5] ** 2 + parts[1][5] ** 2) / 2),
    "V-REx": ("VREx", {"over_pairs": True}, lambda parts: (parts[0][0] - parts[1][0]) ** 2),
    "Fishr": (
        "Fishr",
        {"decay": 0.0, "reduction": "sum", "sum_over_domains": True},
        lambda parts: spread([p[4] - p[1] ** 2 for p in parts]),
    ),
    "Hutchinson": (
        "Hutchinson",
        {"alpha": 1.0, "beta": 1.0, "sum_over_domains": True},
        lambda parts: spread([p[2] for p in parts]) + spread([p[1] for p in parts]),
    ),
    "HGP": ("HGP", {"alpha": 1.0, "beta": 1.0, "sum_over_domains": True, "target": "mean"}, hgp),
}


@pytest.mark.parametrize("reset", [False, True], ids=["as the script", "with a new Adam"])
@pytest.mark.parametrize("method", PENALTIES)
def test_parameters_stay_together_through_the_anneal_step(
    method: str, reset: bool, tmp_path: Path
) -> None:
    name, arguments, penalty = PENALTIES[method]
    write_to = tmp_path / "data"
    write_to.mkdir()
    write_dataset("coloured digits", coloured_digits(), write_to)
    dataset = ImageDataset(write_to)
    parts = clients_of(dataset, [100, 500])
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts" / "offsets.npy", np.cumsum([0, *map(len, parts)]))
    np.save(tmp_path / "parts" / "indices.npy", np.concatenate(parts))
    model_settings = ModelSettings(name="test_trajectory:one_logit")
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
        assert np.abs(arrays[key].numpy() - value.numpy()).max() < 1e-5
    assert max(np.abs(arrays[key].numpy() - value).max() for key, value in initial.items()) > 1e-2
