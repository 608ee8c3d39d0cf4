"""Example victims: captures of clients of a data set, made without a federation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from atoll.attacks.captures.capture import MODEL_RECORD, Capture, Content, FederationInfo, Truth
from atoll.attacks.threat.observation import used_examples
from atoll.attacks.victims import Victim
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.training.local_training import batches, train
from atoll.errors import AttackError

MLP = ModelSettings(name="mlp")
ONE_STEP = ClientSettings(batch_size=1, learning_rate=0.1)


def example_victim(
    model: ModelSettings = MLP,
    client: ClientSettings = ONE_STEP,
    *,
    examples: int = 1,
    seed: int = 0,
    dataset: Dataset | None = None,
) -> Victim:
    """Train one client in this process, and return what a server would see of it.

    An attack or a defense can be tried on it without a run. The capture is that of a client's
    first round, with the bits that the client would send.

    Parameters
    ----------
    model : ModelSettings
        ``[model]``; for digits: images of shape (1, 8, 8) and ten classes.
    client : ClientSettings
        ``[client]``; mods do not act here.
    examples : int
        The number of the client's examples, drawn from the training split.
    seed : int
        Decides the examples, the initial parameters and the client's shuffling.
    dataset : Dataset, optional
        By default ``digits``; of any kind of inputs and task.

    Raises
    ------
    AttackError
        If the settings have mods, there are not so many examples, or the model is a NoProp network,
        which clients train layer by layer.
    InvalidExperimentError
        If the model cannot be built.

    Examples
    --------
    >>> from atoll.attacks import diagnose, example_victim
    >>> victim = example_victim(seed=3)
    >>> victim.truth.images.shape, victim.truth.labels.tolist()
    (torch.Size([1, 1, 8, 8]), [3])
    >>> diagnose(victim.capture, victim.truth).consistent
    True
    """
    if client.mods:
        raise AttackError(
            f"client.mods = {client.mods}: do not act on an example victim; expected none"
        )
    if is_noprop(model):
        raise AttackError(
            f"model.name = {model.name!r}: is trained layer by layer; expected another model"
        )
    dataset = dataset or load_dataset("digits")
    if not 1 <= examples <= len(dataset.train):
        raise AttackError(f"examples = {examples}: expected 1 to {len(dataset.train)}")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset.train))[:examples])
    stored = dataset.train.inputs[chosen]
    labels = torch.from_numpy(dataset.train.labels[chosen].copy())
    module = build_model(model, dataset.inputs, dataset.task, seed)
    broadcast = _copied(module.state_dict())
    with torch.random.fork_rng(devices=[]):
        # Dropout draws from the global generator.
        torch.manual_seed(seed)
        train(
            module,
            dataset.inputs.to_tensor(stored),
            labels,
            client,
            learning_rate=client.learning_rate,
            generator=torch.Generator().manual_seed(seed),
            task=dataset.task,
        )
    capture = Capture(
        server_round=1,
        node_id=1,
        message_type="train",
        federation=FederationInfo(
            dataset=dataset.name,
            model=model,
            client=client,
            inputs=dataset.inputs,
            task=dataset.task,
            num_rounds=1,
        ),
        sent=Content(
            {MODEL_RECORD: broadcast}, {"config": {"learning-rate": client.learning_rate}}
        ),
        reply=Content(
            {MODEL_RECORD: _copied(module.state_dict())}, {"metrics": {"num-examples": examples}}
        ),
    )
    steps = tuple(batches(examples, client, torch.Generator().manual_seed(seed)))
    inputs = torch.from_numpy(stored.copy())
    truth = Truth(inputs, labels, steps, seed, torch.from_numpy(chosen.astype(np.int64)))
    return Victim(capture, used_examples(truth))


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in state.items()}
