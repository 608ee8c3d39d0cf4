"""Captures of real clients of a NoProp federation: their own training, on real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict

from atoll.attacks.captures.capture import Capture, Content, Truth
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.noprop.block_training.example_source import GivenExamples
from atoll.clients.noprop.block_training.layer_training import (
    LayerTraining,
    client_unit_names,
    unit_seed,
)
from atoll.clients.noprop.networks.design import Design, PartialNetwork
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.flower.arrays import array_record, to_array
from tests.support.attacks.captured import content_of
from tests.support.attacks.real_updates import copy_of, info_of

DT = {"name": "noprop-dt", "block": "small", "steps": 4, "norm": "group"}
SEED = 9


def layer_update(
    model: dict[str, Any],
    client: dict[str, Any],
    indices: list[int],
    layers: Sequence[int] = (0, 2),
    *,
    node_id: int = 1,
) -> tuple[Capture, Truth]:
    """Train a client's layers on these examples of the test split of digits; what it sends."""
    data = load_dataset("digits")
    model_settings = ModelSettings.model_validate(model)
    settings = ClientSettings.model_validate(client)
    design = Design.of(model_settings, data.image_shape, len(data.classes))
    torch.manual_seed(3)
    sent = copy_of(PartialNetwork(design, layers))
    pixels = np.array(data.test.images[indices])
    labels = torch.from_numpy(np.array(data.test.labels[indices]))
    training = LayerTraining(
        design,
        GivenExamples(to_tensor(pixels, data.mean, data.std), labels),
        settings,
        learning_rate=settings.learning_rate,
        seed_of=lambda name: unit_seed(SEED, 1, node_id - 1, name),
    )
    done = training.run(array_record({key: to_array(v.numpy()) for key, v in sent.items()}))
    info = info_of(data, model_settings, settings, num_rounds=1)
    reply = content_of(RecordDict({"arrays": done.arrays}))
    capture = Capture(
        server_round=1,
        node_id=node_id,
        message_type="train",
        federation=info,
        sent=Content({"arrays": sent}, {"config": {"server-round": 1}}),
        reply=Content(reply.arrays, {"metrics": {"num-examples": len(labels)}}),
    )
    seeds = {
        name: unit_seed(SEED, 1, node_id - 1, name) for name in client_unit_names(design, layers)
    }
    truth = Truth(torch.from_numpy(pixels), labels, (), SEED, torch.tensor(indices), seeds)
    return capture, truth
