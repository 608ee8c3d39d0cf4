"""Plan of a run: what would run, worked out from the experiment without a cluster.

Data, model and strategy are made and checked as a run makes them. The strategy is asked for the
messages of its first round on a grid that sends nothing.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor, nn

from atoll import flower
from atoll.clients.models.model_building import build_model
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.training.evaluation import ModelData
from atoll.platform.config.estimate import TIMED_EXAMPLES
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.runs.natural_clients import with_natural_clients
from atoll.randomness import derive_seed, seed_everything

FLOAT_BYTES = 4
# Tensors of a parameter's size that an optimiser keeps.
MOMENTS = {"sgd": 0, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class Exchange:
    """The messages that a strategy sends in its first round.

    Attributes
    ----------
    clients : int
        How many get one.
    bytes_down : int
        Of the arrays in all of them.
    is_query : bool
        Whether clients are asked for something before they train.
    """

    clients: int
    bytes_down: int
    is_query: bool = False


@dataclass(frozen=True)
class RunPlan:
    """What would run.

    Attributes
    ----------
    federation : Federation
        Data, clients and strategy.
    parameters, trained : int
        Of the model: all, and those that training changes.
    model_bytes : int
        Of the arrays that travel, with their headers.
    training, evaluation : Exchange or None
        The first round's; None where the strategy does not say before it runs.
    activations : int or None
        Bytes that a batch's activations take; None where that is not known.
    """

    experiment: Experiment
    federation: Federation
    parameters: int
    trained: int
    model_bytes: int
    training: Exchange | None
    evaluation: Exchange | None
    activations: int | None

    @property
    def worker_bytes(self) -> int:
        """What a worker takes: this process's memory, the model's copies, a batch."""
        client = self.experiment.client
        moments = MOMENTS[client.optimizer] + (client.optimizer == "sgd" and client.momentum > 0)
        # The global model, gradients, the optimiser's state, and a sum in float64.
        copies = 2 + moments + 2
        # The clients' model and the one that is evaluated have the frozen parameters, too.
        frozen = 2 * FLOAT_BYTES * (self.parameters - self.trained)
        return _resident() + copies * self.model_bytes + frozen + (self.activations or 0)

    @property
    def data_bytes(self) -> int:
        """What the data set takes, once a machine."""
        folder = self.federation.dataset.directory
        return sum(file.stat().st_size for file in folder.iterdir())


def plan_run(experiment: Experiment) -> RunPlan:
    """Check an experiment whole, and return what would run; nothing is started or written.

    A data set that is not in the cache is fetched into it.

    Raises
    ------
    AtollError
        If the experiment cannot be run.
    """
    check_settings(experiment)
    experiment = with_natural_clients(experiment)
    federation = prepare(experiment)
    model = _model_of(federation)
    arrays = federation.initial_arrays
    strategy = copy.deepcopy(federation.strategy)
    seed_everything(derive_seed(experiment.run.seed, "server"))
    is_layerwise = experiment.layers is not None
    clients = experiment.data.clients
    return RunPlan(
        experiment,
        federation,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        model_bytes=_array_bytes(RecordDict({"arrays": arrays})),
        training=None if is_layerwise else _exchange(strategy, "train", arrays, clients),
        evaluation=None if is_layerwise else _exchange(strategy, "evaluate", arrays, clients),
        activations=None
        if is_noprop(experiment.model)
        else _activations(model, federation.dataset, experiment.client.batch_size),
    )


class _Asked(Exception):  # noqa: N818 - it is no error
    """A strategy sends messages and waits for answers, of which there are none here."""

    def __init__(self, messages: Iterable[Message]) -> None:
        super().__init__()
        self.messages = list(messages)


class _SilentGrid(Grid):
    """A grid that knows its nodes and sends nothing."""

    def __init__(self, clients: int) -> None:
        self._nodes = range(1, clients + 1)
        self._run = flower.new_run()

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise _Asked(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise _Asked(messages)


def _exchange(strategy: Strategy, kind: str, arrays: ArrayRecord, clients: int) -> Exchange | None:
    configure: Callable[..., Iterable[Message]] = getattr(strategy, f"configure_{kind}")
    flower.assume_identity()
    before = random.getstate(), np.random.get_state()
    try:
        messages, is_query = list(configure(1, arrays, ConfigRecord(), _SilentGrid(clients))), False
    except _Asked as asked:
        messages, is_query = asked.messages, True
    except Exception:
        # Some strategies prepare themselves in a loop of their own.
        return None
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
    down = sum(_array_bytes(message.content) for message in messages)
    return Exchange(len({m.metadata.dst_node_id for m in messages}), down, is_query)


def _array_bytes(content: RecordDict) -> int:
    """Return the bytes of the arrays of a message, as the ledger counts them: with headers."""
    return sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )


def _model_of(federation: Federation) -> nn.Module:
    dataset, spec = federation.dataset, federation.spec
    return build_model(spec.model, dataset.inputs, dataset.task, spec.seed)


def _activations(model: nn.Module, data: ModelData, batch_size: int) -> int | None:
    """Return the bytes that autograd keeps of a batch, parameters aside."""
    count = min(batch_size, TIMED_EXAMPLES)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model.train()
        outputs = model(data.inputs.blank(count))
        loss = data.task.mean_loss(outputs, data.task.blank_targets(count))
    del loss
    return sum(kept.values()) * batch_size // count


def _resident() -> int:
    """Return this process's memory: a worker loads the same libraries."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
