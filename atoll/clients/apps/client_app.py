"""ClientApp of Atoll: local training and evaluation on a partition of a data set.

It is a plain Flower ClientApp, so it runs on stock Flower too.
"""

from __future__ import annotations

from typing import Protocol

import torch
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp import ClientApp

from atoll.clients.apps.batch_app import BatchClientApp
from atoll.clients.apps.client_spec import ClientSpec as ClientSpec
from atoll.clients.apps.client_spec import RoundExamples
from atoll.clients.apps.leaving_clients import ASCENT
from atoll.clients.apps.local_clients import clients_of
from atoll.clients.apps.noprop_clients import make_noprop_app, noprop_clients_of
from atoll.clients.apps.training_messages import metrics_of
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.mods import QueryMod, find_mods
from atoll.clients.moments.moment_messages import MOMENTS, TrainingTerms
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.errors import EngineError


class FederatedClientApp(BatchClientApp):
    """A ClientApp whose clients can also train together, as one batch.

    Parameters
    ----------
    spec : ClientSpec
        The federation.
    """

    def __init__(self, spec: ClientSpec) -> None:
        mods = find_mods(spec.client.mods)
        super().__init__()
        self._has_mods = bool(mods)
        self._clients = clients_of(spec)
        # Flower's mods ask for what only training messages hold; an evaluation's reply is figures.
        self.train(mods=mods)(self._clients.train)
        self.train(ASCENT, mods=mods)(self._clients.ascend)
        self.evaluate()(self._clients.evaluate)
        self.query(MOMENTS, mods=[mod for mod in mods if isinstance(mod, QueryMod)])(
            self._clients.answer_query
        )

    def can_sum(self, message: Message) -> str | None:
        """Return None if answers to ``message`` may be added up here, or why not."""
        if TrainingTerms.are_in(message.content):
            return "domains weigh replies"
        if self._has_mods:
            return "client.mods see every reply"
        return self._clients.terms.state_kept_for(message) or self._clients.personal.obstacle

    def can_vectorize(self) -> str | None:
        """Return None if clients can train together, or why they cannot."""
        if self._has_mods:
            return "client.mods see one client at a time"
        return self._clients.vectorized.obstacle

    def train_together(self, messages: list[Message], contexts: list[Context]) -> list[Message]:
        """Answer the training messages of several clients at once, in their order.

        The answers equal those of one client after another to rounding (within 1e-5 in float32),
        dropout aside.
        """
        return self._clients.train_together(messages, contexts)

    def train_and_sum(
        self, message: Message, contexts: list[Context], *, vectorized: bool
    ) -> tuple[WeightedSum, list[MetricRecord], list[float]]:
        """Train several clients for the sum of their models, as the base class says."""
        clients = self._clients.vectorized if vectorized else self._clients
        summed, seconds = clients.train_and_sum(message, contexts)
        return summed.total, [metrics_of(result) for result in summed.results], seconds


class KnownExamples(Protocol):
    """The clients of a federation, as far as their examples go."""

    @property
    def count(self) -> int:
        """The number of clients."""

    def num_examples(self, partition: int) -> int:
        """Return how many examples the client of ``partition`` trains on."""

    def round_examples(self, message: Message, partition: int) -> RoundExamples:
        """Return the examples of the client of ``partition`` for a training message."""


def examples_of(spec: ClientSpec) -> KnownExamples:
    """Return a federation's clients, to ask them for their examples."""
    if is_noprop(spec.model):
        return noprop_clients_of(spec)
    return clients_of(spec)


def make_client_app(spec: ClientSpec) -> ClientApp:
    """Return the ClientApp of a federation.

    Parameters
    ----------
    spec : ClientSpec
        The federation.

    Raises
    ------
    EngineError
        If clients are to be on a GPU, and PyTorch sees none in this process.

    Examples
    --------
    >>> from flwr.clientapp import ClientApp
    >>> from atoll.clients import ClientSettings, ClientSpec, DataSettings, ModelSettings
    >>> from atoll.clients import load_dataset, make_client_app, partition_dataset
    >>> digits = load_dataset("digits")
    >>> partition = partition_dataset(digits, DataSettings(dataset="digits", clients=5), seed=0)
    >>> model, client = ModelSettings(name="linear"), ClientSettings(learning_rate=0.1)
    >>> spec = ClientSpec(digits.directory, partition.directory, model, client, 5, seed=0)
    >>> isinstance(make_client_app(spec), ClientApp)  # it runs on stock Flower too
    True
    """
    if spec.device != "cpu" and not torch.cuda.is_available():
        raise EngineError(
            "ray.gpus_per_worker: a worker has a share of a GPU, and its PyTorch "
            f"({torch.__version__}) sees none; expected PyTorch for CUDA there, or 0"
        )
    if is_noprop(spec.model):
        return make_noprop_app(spec)
    return FederatedClientApp(spec)
