"""Clients with parameters or models of their own: what nodes keep, and how it is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from flwr.app import Context, Message

from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.training_messages import (
    arrays_of,
    config_of,
    evaluated,
    partition_of,
    round_of,
)
from atoll.clients.arrays.local_tensors import LocalTensors
from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.personal.method import PersonalClient, PersonalMethod
from atoll.clients.personal.methods import find_method
from atoll.clients.personal.metric_prefix import PERSONAL
from atoll.clients.training.local_training import TrainingResult
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.randomness import seed_everything

LOCAL, METHOD = "local", "personal"


class PersonalClients:
    """Local parameters and personal methods of a process's clients.

    Parameters
    ----------
    resources : ClientResources
        The process's; the messages' arrays are loaded into its model before each call.
    """

    def __init__(self, resources: ClientResources) -> None:
        self._resources = resources

    @cached_property
    def _method(self) -> PersonalMethod | None:
        return find_method(self._resources.spec.client.personal)

    @cached_property
    def _names(self) -> frozenset[str]:
        return self._resources.spec.local_names(self._resources.model)

    @cached_property
    def _local(self) -> LocalTensors:
        return LocalTensors(self._resources.model, self._names)

    @cached_property
    def obstacle(self) -> str | None:
        """Why clients must train one at a time, each with its context; None if they need not."""
        client = self._resources.spec.client
        if client.local:
            return "client.local keeps parameters with each client"
        if client.personal is not None and self._method and self._method.changes_training:
            return f"client.personal {client.personal.name!r} trains one client at a time"
        return None

    def train(
        self, message: Message, context: Context, train_plainly: Callable[[], TrainingResult]
    ) -> TrainingResult:
        """Train with what the client has of its own, and keep that with the node.

        Parameters
        ----------
        message, context : Message, Context
            The training message, whose arrays are in the model, and the client's context.
        train_plainly : callable
            Trains the model as without a method.
        """
        if self.obstacle is None:
            return train_plainly()
        memory = NodeMemory(context.state, LOCAL)
        self._local.load(memory.read())
        if self._method is None:
            result = train_plainly()
        else:
            client = self._client(message, context, train_plainly, "personal training")
            result = self._method.train(client)
        memory.write(self._local.read())
        return result

    def evaluate(self, message: Message, context: Context) -> Message:
        """Answer an evaluation message: the global model's metrics, and the client's own one's.

        Both are on the client's held-out examples, or on all that it has. In the global model,
        parameters that do not leave a client are the initial ones.
        """
        resources, partition = self._resources, partition_of(context)
        resources.arrays.load(arrays_of(message))
        spec = resources.spec
        is_personal = bool(spec.client.local) or self._method is not None
        if is_personal:
            self._local.load({})
        metrics = resources.evaluate(partition)
        if is_personal and self._is_due(round_of(config_of(message))):
            self._local.load(NodeMemory(context.state, LOCAL).read())
            if self._method is not None:
                # What dropout draws is the client's own, too.
                client = self._client(message, context, _not_trained, "personal evaluation")
                self._method.personalise(client)
            own = resources.evaluate(partition)
            metrics |= {PERSONAL + k: v for k, v in own.items() if k != "num-examples"}
        return evaluated(message, metrics)

    def _is_due(self, server_round: int) -> bool:
        """Tell whether clients' own models are evaluated in a round."""
        spec = self._resources.spec
        every = spec.client.personal_every or 1
        return server_round % every == 0 or server_round == spec.num_rounds

    def _client(
        self,
        message: Message,
        context: Context,
        train_plainly: Callable[[], TrainingResult],
        phase: str,
    ) -> PersonalClient:
        resources, partition, config = self._resources, partition_of(context), config_of(message)
        seed = resources.seed(config, phase, partition)
        varied = resources.seed(config, f"augmentation of {phase}", partition)
        inputs, labels = resources.training_examples(partition, varied)
        state = travelling_state(resources.model)

        def seeded() -> TrainingResult:
            result = train_plainly()
            # Plain training has seeds of its own.
            seed_everything(seed)
            return result

        seed_everything(seed)
        return PersonalClient(
            model=resources.model,
            tensors={name: value.detach() for name, value in state.items()},
            local=self._names,
            inputs=inputs,
            labels=labels,
            settings=resources.spec.client,
            learning_rate=resources.learning_rate(config),
            seed=seed,
            task=resources.dataset.task,
            memory=NodeMemory(context.state, METHOD),
            train_plainly=seeded,
        )


def _not_trained() -> TrainingResult:
    """Refuse plain training where a model is only evaluated."""
    raise RuntimeError("a personal method trained plainly in an evaluation")
