"""The terms of clients' objectives for a training message: from the settings and the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from flwr.app import Array, Context, Message
from torch import Tensor, nn

from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.training_messages import config_of, proximal_mu_of, round_of, term_arrays_in
from atoll.clients.arrays.tensors import tensors_of
from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.models.head import find_head
from atoll.clients.training.objective.client_objective import ClientObjective, NamedTerm
from atoll.clients.training.objective.named_terms import (
    check_terms,
    find_terms,
    obstacle_to_vectorizing,
    records_of_terms,
    terms_in,
)
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.clients.training.objective.term import TermContext


class ClientTerms:
    """Makes the objective of each client of a process.

    Parameters
    ----------
    resources : ClientResources
        The process's.
    """

    def __init__(self, resources: ClientResources) -> None:
        self._resources = resources
        self._asked_for: tuple[str, list[NamedTerm]] = ("", [])
        self._tensors: dict[str, tuple[dict[str, Array], dict[str, Tensor]]] = {}

    @cached_property
    def _own(self) -> list[NamedTerm]:
        return find_terms(self._resources.spec.client.objective)

    @cached_property
    def obstacle(self) -> str | None:
        """The reason why vectorised clients cannot train on the settings' terms, or None."""
        if self._resources.spec.client.selection is not None:
            return "client.selection scores the examples of one client at a time"
        return obstacle_to_vectorizing(self._own)

    @cached_property
    def _head(self) -> nn.Module | None:
        try:
            return find_head(self._resources.model)
        except ValueError:
            return None

    @cached_property
    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        # The model stays; which of its parameters are trained may change.
        return list(self._resources.model.named_parameters())

    def _terms_in(self, message: Message) -> list[NamedTerm]:
        """Return the terms that a message asks for; those of a round's messages are alike."""
        records = records_of_terms(message.content)
        if not records:
            return []
        asked = repr(records)
        if self._asked_for[0] != asked:
            self._asked_for = asked, terms_in(message.content)
        return self._asked_for[1]

    def _received(self, message: Message, term: str) -> dict[str, Tensor]:
        """Return what a message holds for a term; a round's messages share their arrays."""
        arrays = term_arrays_in(message, term)
        known, tensors = self._tensors.get(term, ({}, {}))
        if arrays.keys() != known.keys() or any(arrays[k] is not known[k] for k in arrays):
            tensors = tensors_of(arrays)
            self._tensors[term] = arrays, tensors
        return tensors

    def obstacle_in(self, message: Message) -> str | None:
        """Return why clients of a message cannot train vectorised, or None."""
        return obstacle_to_vectorizing(self._terms_in(message))

    def state_kept_for(self, message: Message) -> str | None:
        """Return why a node's answer to a message changes its state, or None if it does not."""
        if self._resources.spec.client.selection is not None:
            return "client.selection keeps scores with each node"
        for named in (*self._own, *self._terms_in(message)):
            if named.term.keeps_state():
                return f"the term {named.name!r} keeps state with each node"
        return None

    def begin(
        self,
        message: Message,
        context: Context,
        partition: int,
        inputs: ClientInputs,
        labels: Tensor,
    ) -> ClientObjective | None:
        """Return a client's objective; None if there is no term.

        Parameters
        ----------
        message : Message
            The training message, whose model is loaded.
        context : Context
            The client's.
        partition : int
            Its partition.
        inputs, labels : ClientInputs, Tensor
            Its examples, shape (n, ...).
        """
        asked_for = self._terms_in(message)
        terms: Sequence[NamedTerm] = (*self._own, *asked_for)
        if not terms:
            return None
        resources, config = self._resources, config_of(message)
        spec, model = resources.spec, resources.model
        check_terms(asked_for, resources.dataset.task, spec.client)
        trained = {name: p for name, p in self._parameters if p.requires_grad}
        start = [parameter.detach().clone() for parameter in trained.values()]
        given_mu = proximal_mu_of(config)
        indices = torch.from_numpy(resources.training_part(partition).copy())
        contexts = [
            TermContext(
                model=model,
                names=list(trained),
                start=start,
                task=resources.dataset.task,
                settings=spec.client,
                learning_rate=resources.learning_rate(config),
                proximal_mu=spec.client.proximal_mu if given_mu is None else given_mu,
                server_round=round_of(config),
                num_rounds=spec.num_rounds,
                seed=resources.seed(config, f"objective {named.name}", partition),
                inputs=inputs,
                labels=labels,
                indices=indices,
                head=self._head,
                memory=NodeMemory(context.state, named.name),
                received=self._received(message, named.name),
            )
            for named in terms
        ]
        return ClientObjective(terms, contexts)
