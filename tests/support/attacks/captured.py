"""Captures of our own clients' replies, made without a cluster."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from atoll.attacks.captures.capture import Capture, Content, FederationInfo, Truth
from atoll.clients.apps.client_app import make_client_app
from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.apps.local_clients import clients_of
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.partitioning.partition import partition_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, DataSettings, ModelSettings, ModSettings
from atoll.flower import assume_identity

CLIENTS = 12


def a_spec(*mods: ModSettings, model: str = "lenet-sigmoid", examples: int = 1) -> ClientSpec:
    """A federation on digits whose clients hold few examples and take one step."""
    dataset = load_dataset("digits")
    data = DataSettings(dataset="digits", clients=CLIENTS, examples_per_client=examples)
    return ClientSpec(
        dataset=dataset.directory,
        partition=partition_dataset(dataset, data, 3).directory,
        model=ModelSettings(name=model),
        client=ClientSettings(learning_rate=0.1, batch_size=64, epochs=1, mods=mods),
        num_rounds=1,
        seed=7,
    )


def captured(spec: ClientSpec, partition: int = 0) -> tuple[Capture, Truth]:
    """The capture of one client's training in round 1, and its truth."""
    assume_identity()
    dataset = load_dataset("digits")
    model = build_model(spec.model, dataset.image_shape, len(dataset.classes), seed=1)
    content = RecordDict(
        {"arrays": ModelArrays(model).read(), "config": ConfigRecord({"server-round": 1})}
    )
    message = Message(content, dst_node_id=partition + 1, message_type="train")
    config = {"partition-id": partition, "num-partitions": CLIENTS}
    reply = make_client_app(spec)(message, Context(1, partition + 1, config, RecordDict(), {}))
    assert not reply.has_error(), reply.error
    info = FederationInfo(
        dataset="digits",
        model=spec.model,
        client=spec.client,
        inputs=dataset.inputs,
        task=dataset.task,
        num_rounds=1,
    )
    examples = clients_of(spec).round_examples(message, partition)
    truth = Truth(
        inputs=torch.from_numpy(examples.inputs.copy()),
        labels=torch.from_numpy(examples.labels.copy()),
        batches=examples.batches,
        seed=examples.seed,
        indices=torch.from_numpy(examples.indices.copy()),
    )
    capture = Capture(
        1, partition + 1, "train", info, content_of(message.content), content_of(reply.content)
    )
    return capture, truth


def content_of(records: RecordDict) -> Content:
    arrays = {
        name: {key: torch.from_numpy(array.numpy().copy()) for key, array in record.items()}
        for name, record in records.items()
        if isinstance(record, ArrayRecord)
    }
    values = {name: dict(r.items()) for name, r in records.items() if name not in arrays}
    return Content(arrays, values)


def folder_of(capture: Capture, root: Path) -> Path:
    return root / f"round-000001-node-{capture.node_id:06d}-train"
