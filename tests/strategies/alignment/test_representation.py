"""FedSR against its objective written with torch.distributions, and that it acts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.models.images.gaussian_model import GaussianHead, GaussianModel
from atoll.clients.settings import ClientSettings
from atoll.errors import InvalidExperimentError
from atoll.randomness import derive_seed
from atoll.strategies import build_strategy
from atoll.strategies.alignment.alignment_checks import check_federation
from tests.support.strategies.small_federation import (
    DOMAINS,
    LAYOUTS,
    Float64,
    SmallFederation,
    hex_of,
    make_federation,
    values,
)

SIZE = 3
STEP = {"client_update": "gradient", "server_optimizer": "sgd", "server_learning_rate": 1.0}
Client = tuple[Tensor, Tensor, list[str]]


def double_gaussian(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    body = Float64(int(np.prod(image_shape)), 2 * SIZE)
    head = GaussianHead(SIZE, classes, classes).double()
    with torch.no_grad():
        head.reference_mean.normal_()
    return GaussianModel(body, head)


def small(folder: Path, layout: str, client: ClientSettings | None = None) -> SmallFederation:
    return make_federation(
        folder, LAYOUTS[layout], client=client, model=f"{__name__}:double_gaussian"
    )


def examples_of(federation: SmallFederation) -> list[Client]:
    """Return each client's images, labels, and the domain of each."""
    found = []
    for partition in range(federation.grid.nodes):
        own = federation.clients.aligned.examples(
            partition, ConfigRecord({"server-round": 1}), None
        )
        found.append((own.images, own.labels, [own.names[d] for d in own.domains.tolist()]))
    return found


def terms(
    model: nn.Module, images: Tensor, labels: Tensor, names: list[str], released: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each example's cross-entropy of a draw, L2R and CMI, with fresh noise."""
    inputs = model.body(images)
    mean, scale = inputs[:, :SIZE], F.softplus(inputs[:, SIZE:])
    z = Normal(mean, scale).rsample()
    head = model.head
    losses = F.cross_entropy(z @ head.linear.weight.T + head.linear.bias, labels, reduction="none")
    if released:
        # Noise is drawn domain by domain, in the data set's order.
        l2r = torch.zeros(len(labels), dtype=torch.float64)
        for domain in (name for name in DOMAINS if name in names):
            own = torch.tensor([name == domain for name in names])
            drawn = Normal(mean[own], scale[own]).rsample()
            l2r = l2r.masked_scatter(own, drawn.square().sum(1).sqrt())
    else:
        l2r = (Normal(mean, scale).mean.square() + Normal(mean, scale).variance).sum(1)
    wanted = Normal(head.reference_mean[labels], F.softplus(head.reference_scale)[labels])
    cmi = kl_divergence(Normal(head.factor * mean, head.factor * scale), wanted).sum(1)
    return losses, l2r, cmi


@pytest.mark.parametrize("released", [False, True], ids=["as published", "as released"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_is_that_of_the_published_objective(
    layout: str, released: bool, tmp_path: Path
) -> None:
    federation = small(tmp_path, layout)
    weights = {"l2r_weight": 0.3, "cmi_weight": 0.2}
    strategy = build_strategy("FedSR", {**STEP, **weights, "as_released": released})
    after, _ = federation.round(strategy)
    clients = examples_of(federation)
    everything = [name for _, _, names in clients for name in names]
    total = torch.zeros((), dtype=torch.float64)
    for partition, (images, labels, names) in enumerate(clients):
        # The noise of the client's own generator.
        torch.manual_seed(derive_seed(3, 1, "train", partition))
        losses, l2r, cmi = terms(federation.model, images, labels, names, released)
        counts = torch.tensor([everything.count(name) for name in names])
        total = total + ((losses + 0.3 * l2r + 0.2 * cmi) / counts).sum() / 3
    gradient = torch.autograd.grad(total, list(federation.model.parameters()))
    for (key, _), expected in zip(federation.model.named_parameters(), gradient, strict=True):
        moved = values(federation.arrays)[key] - values(after)[key]
        np.testing.assert_allclose(moved, expected.numpy(), atol=1e-10)


@pytest.mark.slow
def test_the_terms_act_and_without_them_it_is_fedavg(tmp_path: Path) -> None:
    layout = "domains split over unequal clients"
    federation = small(tmp_path, layout, ClientSettings(learning_rate=0.1, batch_size=8, epochs=2))

    def after(arguments: dict[str, Any] | None) -> tuple[str, float, float]:
        strategy = FedAvg(min_available_nodes=1)
        if arguments is not None:
            strategy = build_strategy("FedSR", {"domain_weights": "examples", **arguments})
        arrays = federation.arrays
        for number in range(1, 6):
            arrays, _ = federation.round(strategy, number, arrays)
        model = federation.model
        model.load_state_dict({k: torch.tensor(v) for k, v in values(arrays).items()})
        with torch.no_grad():
            found = [terms(model, *client, released=False) for client in examples_of(federation)]
        _, squares, divergences = zip(*found, strict=True)
        means = [float(torch.cat(parts).mean()) for parts in (squares, divergences)]
        return hex_of(arrays), means[0], means[1]

    plain, square, divergence = after(None)
    assert after({"l2r_weight": 0.0, "cmi_weight": 0.0})[0] == plain
    assert after({"l2r_weight": 0.5, "cmi_weight": 0.0})[1] < 0.8 * square
    assert after({"l2r_weight": 0.0, "cmi_weight": 0.5})[2] < 0.5 * divergence
    released = after({"l2r_weight": 0.5, "cmi_weight": 0.0, "as_released": True})
    assert released[1] < square
    assert all(math.isfinite(figure) for figure in released[1:])


def test_a_model_without_a_gaussian_representation_is_refused(tmp_path: Path) -> None:
    small(tmp_path, "one client a domain")
    parts = Dataset(tmp_path / "data"), Partition(tmp_path / "parts")
    with pytest.raises(InvalidExperimentError, match=r"'FedSR': .* expected model.name = 'gaussi"):
        check_federation(build_strategy("FedSR", {}), Float64(9, 3), *parts)
    check_federation(build_strategy("FedSR", {}), double_gaussian((1, 3, 3), 3), *parts)
