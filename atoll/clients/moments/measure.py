"""Measurement of statistics: sums over a client's examples, by domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from atoll.clients.models.head import SplitModel
from atoll.clients.moments.domain_examples import DomainExamples
from atoll.clients.moments.example_passes import Batch, Passes
from atoll.clients.moments.moment_messages import DomainSums, MomentsQuery
from atoll.clients.moments.statistic import DomainContext, Statistic
from atoll.clients.moments.statistics import Gradient
from atoll.user_code.error_places import user_code


def measure(
    model: SplitModel, examples: DomainExamples, query: MomentsQuery, passes: Passes
) -> DomainSums:
    """Answer a query.

    Parameters
    ----------
    model : SplitModel
        At the broadcast parameters; in training mode, as the training that follows.
    passes : Passes
        Of this model.

    Raises
    ------
    ValueError
        If a statistic exists for a linear head only and the head is not.
    """
    if not query.statistics:
        return DomainSums(examples.counts, {}, model.parameter_names)
    by_index = {
        index: {
            name: DomainContext(name, query.vectors.get((index, name)), examples.counts[name])
            for name in examples.names
        }
        for index in range(len(query.statistics))
    }
    check_head(model, query.statistics)
    needs_graph = any(statistic.needs_graph for statistic in query.statistics)
    batches = passes.read(examples, graph=needs_graph, keep_graph=query.before_gradient)
    sums = sums_of(model, examples, query.statistics, by_index, batches)
    whole = any(isinstance(statistic, Gradient) for statistic in query.statistics)
    return DomainSums(examples.counts, sums, model.parameter_names if whole else ())


def sums_of(
    model: SplitModel,
    examples: DomainExamples,
    statistics: Sequence[Statistic],
    contexts: Mapping[int, Mapping[str, DomainContext]],
    batches: Iterable[Batch],
) -> dict[tuple[int, str], Tensor]:
    """Return the sum of each statistic over each domain's examples, by index and domain."""
    sums: dict[tuple[int, str], Tensor] = {}
    for chosen, outputs in batches:
        sizes = model.sizes(outputs)
        for name, part in examples.by_domain(outputs, chosen):
            for index, statistic in enumerate(statistics):
                with user_code(f"the statistic {statistic.name}"):
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
