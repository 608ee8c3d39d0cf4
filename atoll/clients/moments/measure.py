"""Summing statistics over a client's examples, domain by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atoll.clients.moments.examples import DomainExamples
from atoll.clients.moments.head import SplitModel
from atoll.clients.moments.messages import DomainSums, MomentsQuery
from atoll.clients.moments.statistic import DomainContext, Statistic
from atoll.clients.moments.statistics import Gradient

# Examples at a time, at least: enough to keep a processor busy, few enough for its memory.
BATCH = 512


def measure(
    model: SplitModel, examples: DomainExamples, query: MomentsQuery, batch_size: int = BATCH
) -> DomainSums:
    """Answer a query.

    Parameters
    ----------
    model : SplitModel
        At the broadcast parameters; in training mode, as the training that follows.
    batch_size : int
        Examples at a time; it changes nothing but the order of additions.

    Raises
    ------
    ValueError
        If a statistic exists for a linear head only and the head is not.
    """
    if not query.statistics:
        return DomainSums(examples.counts, {})
    by_index = {
        index: {
            name: DomainContext(name, query.vectors.get((index, name))) for name in examples.names
        }
        for index in range(len(query.statistics))
    }
    sums = sums_of(model, examples, query.statistics, by_index, max(batch_size, BATCH))
    whole = any(isinstance(statistic, Gradient) for statistic in query.statistics)
    return DomainSums(examples.counts, sums, model.parameter_names if whole else ())


def sums_of(
    model: SplitModel,
    examples: DomainExamples,
    statistics: Sequence[Statistic],
    contexts: Mapping[int, Mapping[str, DomainContext]],
    batch_size: int,
) -> dict[tuple[int, str], Tensor]:
    """Return the sum of each statistic over each domain's examples, by index and domain."""
    check_head(model, statistics)
    needs_graph = any(statistic.needs_graph for statistic in statistics)
    sums: dict[tuple[int, str], Tensor] = {}
    for chosen in torch.split(torch.arange(len(examples)), batch_size):
        if not len(chosen):
            break
        with torch.set_grad_enabled(needs_graph):
            outputs = examples.outputs(model, chosen)
        sizes = model.sizes(outputs)
        for name, part in examples.by_domain(outputs, chosen):
            for index, statistic in enumerate(statistics):
                total = statistic.total(part, sizes, contexts[index][name])
                known = sums.get((index, name))
                sums[index, name] = total if known is None else known + total
    return sums


def check_head(model: SplitModel, statistics: Sequence[Statistic]) -> None:
    """Refuse statistics that need a linear head where the head is not.

    Raises
    ------
    ValueError
        Naming the statistic and the head.
    """
    for statistic in statistics:
        if statistic.needs_linear_head and not model.has_linear_head:
            raise ValueError(
                f"the statistic {statistic.name!r} has a closed form for a linear head only; the "
                f"model's head is a {type(model.head).__name__}"
            )
