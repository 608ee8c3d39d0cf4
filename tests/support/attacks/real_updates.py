"""Captures made by real clients: our local training, on real images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atoll.attacks.captures.capture import Capture, Content, FederationInfo, Truth
from atoll.attacks.threat.capabilities import ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.training.local_training import batches, train
from atoll.randomness import seed_everything


def client_update(
    model: dict[str, Any],
    client: dict[str, Any],
    indices: list[int],
    *,
    seed: int = 11,
    dataset: str = "digits",
    node_id: int = 1,
    state: dict[str, Tensor] | None = None,
) -> tuple[Capture, Truth]:
    """Train a client on these examples of the test split, and capture what it sends."""
    data = load_dataset(dataset)
    model_settings = ModelSettings.model_validate(model)
    settings = ClientSettings.model_validate(client)
    module = build_model(model_settings, data.image_shape, len(data.classes), 5)
    if state is not None:
        module.load_state_dict(state)
    pixels = np.array(data.test.images[indices])
    labels = torch.from_numpy(np.array(data.test.labels[indices]))
    sent = copy_of(module)
    seed_everything(seed)
    result = train(
        module,
        to_tensor(pixels, data.mean, data.std),
        labels,
        settings,
        learning_rate=settings.learning_rate,
        generator=torch.Generator().manual_seed(seed),
    )
    info = info_of(data, model_settings, settings, num_rounds=3)
    capture = Capture(
        server_round=1,
        node_id=node_id,
        message_type="train",
        federation=info,
        sent=Content({"arrays": sent}, {"config": {"server-round": 1}}),
        reply=Content(
            {"arrays": copy_of(module)},
            {"metrics": {"num-examples": result.examples, "loss": result.loss}},
        ),
    )
    order = tuple(batches(len(labels), settings, torch.Generator().manual_seed(seed)))
    truth = Truth(torch.from_numpy(pixels), labels, order, seed, torch.tensor(indices))
    return capture, truth


def info_of(
    data: Dataset, model: ModelSettings, client: ClientSettings, *, num_rounds: int
) -> FederationInfo:
    """What a server is told of a federation on this data set."""
    return FederationInfo(
        dataset=data.name,
        model=model,
        client=client,
        inputs=data.inputs,
        task=data.task,
        num_rounds=num_rounds,
    )


def assert_simulates(
    capture: Capture, truth: Truth, threat: ThreatModel, tolerances: tuple[float, float]
) -> None:
    """The simulation of the client sends what the client sent: to rtol of the largest, and atol."""
    relative, absolute = tolerances
    observation = observe(capture, threat, truth=truth)
    assert observation.labels is not None
    simulated = ClientSimulation.of(observation)(
        observation.space.normalize(truth.images), observation.labels
    )
    for name, found, sent in zip(
        observation.model.names, simulated, observation.target, strict=True
    ):
        largest = float(sent.abs().max())
        torch.testing.assert_close(
            found, sent, rtol=0, atol=relative * largest + absolute, msg=name
        )


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
