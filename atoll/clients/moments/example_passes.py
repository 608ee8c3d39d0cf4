"""Passes over a client's examples at the broadcast parameters, made once a round.

A round has several messages to a client: queries for moments, then training. All are for the same
parameters and examples, so the outputs of a query's pass are reused by the messages after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.moments.domain_examples import DomainExamples

# Examples at a time, at least: enough to keep a processor busy, few enough for its caches.
BATCH = 512
# What a process keeps of its clients' passes, at most.
KEPT_BYTES = 512 * 2**20

Batch = tuple[slice, HeadOutputs]


@dataclass(frozen=True)
class _Pass:
    examples: DomainExamples
    batches: list[Batch]
    with_graph: bool
    size: int


class Passes:
    """The passes of a process's clients at one state of the model.

    Parameters
    ----------
    model : SplitModel
        Passes are forgotten when its parameters have other values.
    batch_size : int
        Examples at a time, if at least 512.
    limit : int
        Bytes to keep; a client beyond it has another pass for each message.
    """

    def __init__(self, model: SplitModel, batch_size: int = BATCH, limit: int = KEPT_BYTES) -> None:
        self._model = model
        self._batch_size = max(batch_size, BATCH)
        self._limit = limit
        self._at: list[Tensor] = []
        self._kept: dict[int, _Pass] = {}

    def read(self, examples: DomainExamples, *, graph: bool, keep_graph: bool) -> Iterable[Batch]:
        """Return the outputs on all examples, batch by batch, and keep them for later messages.

        Parameters
        ----------
        examples : DomainExamples
            The client's; the same object for messages that are to share a pass.
        graph : bool
            Whether the outputs are to be in the graph of the model's parameters.
        keep_graph : bool
            Whether a later :meth:`take` will want the graph.
        """
        kept = self._find(examples)
        if kept is None or (graph and not kept.with_graph):
            kept = self._keep(examples, graph=graph or keep_graph)
        batches = self._run(examples, graph=graph) if kept is None else kept.batches
        return batches if graph else _without_graph(batches)

    def holds(self, examples: DomainExamples) -> bool:
        """Tell whether :meth:`take` will find outputs with their graph."""
        kept = self._find(examples)
        return kept is not None and kept.with_graph

    def take(self, examples: DomainExamples) -> Iterator[Batch]:
        """Yield the outputs in the graph of the parameters, which is the caller's to use up."""
        kept = self._find(examples)
        self._kept.pop(id(examples), None)
        if kept is None or not kept.with_graph:
            yield from self._run(examples, graph=True)
            return
        batches = kept.batches[::-1]
        del kept
        while batches:
            yield batches.pop()

    def _find(self, examples: DomainExamples) -> _Pass | None:
        parameters = self._model.parameters
        if len(self._at) != len(parameters) or not all(map(torch.equal, self._at, parameters)):
            self._kept = {}
            self._at = [parameter.detach().clone() for parameter in parameters]
        return self._kept.get(id(examples))

    def _keep(self, examples: DomainExamples, *, graph: bool) -> _Pass | None:
        """Make a pass and keep it, if it fits; None if it does not."""
        self._kept.pop(id(examples), None)
        room = self._limit - sum(kept.size for kept in self._kept.values())
        batches, size = [], 0
        for batch, bytes_of_batch in self._measured(examples, graph):
            batches.append(batch)
            size += bytes_of_batch
            if size / len(batches) * -(-len(examples) // self._batch_size) > room:
                return None
        kept = _Pass(examples, batches, graph, size)
        self._kept[id(examples)] = kept
        return kept

    def _measured(self, examples: DomainExamples, graph: bool) -> Iterator[tuple[Batch, int]]:
        """Yield batches with the bytes that each holds; parameters are not counted."""
        own = {parameter.data_ptr() for parameter in self._model.parameters}
        seen: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                seen[tensor.data_ptr()] = tensor.nbytes
            # A layer that holds its own output would never be freed.
            return tensor.detach()

        for chosen in self._splits(examples):
            seen.clear()
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                outputs = self._outputs(examples, chosen, graph)
            count(outputs.features)
            count(outputs.logits)
            yield (chosen, outputs), sum(seen.values())

    def _run(self, examples: DomainExamples, *, graph: bool) -> Iterator[Batch]:
        for chosen in self._splits(examples):
            yield chosen, self._outputs(examples, chosen, graph)

    def _outputs(self, examples: DomainExamples, chosen: slice, graph: bool) -> HeadOutputs:
        with torch.set_grad_enabled(graph):
            return examples.outputs(self._model, chosen)

    def _splits(self, examples: DomainExamples) -> Iterator[slice]:
        size = self._batch_size
        return map(partial(_split, size), range(0, len(examples), size))


def _split(size: int, start: int) -> slice:
    return slice(start, start + size)


def _without_graph(batches: Iterable[Batch]) -> Iterator[Batch]:
    return ((chosen, outputs.detached) for chosen, outputs in batches)
