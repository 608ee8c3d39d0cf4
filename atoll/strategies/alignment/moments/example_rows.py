"""Rows of a statistic by example, for penalties of single values in place of sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.clients.moments.moment_messages import DomainSums, Term
from atoll.clients.moments.statistic import Statistic


@dataclass(frozen=True)
class ExampleRows:
    """Rows of every domain, and the node of each.

    Attributes
    ----------
    statistic : Statistic
        What was asked for.
    names : Sequence[str]
        The domains.
    values : list[Tensor]
        By domain, a leaf of the penalty's graph: float64, shape (examples, ...).
    own : dict[str, Tensor]
        The same of the domains that are here, outside of the graph.
    places : dict[int, dict[str, slice]]
        By node and domain, the node's rows.
    """

    statistic: Statistic
    names: Sequence[str]
    values: list[Tensor]
    own: dict[str, Tensor]
    places: dict[int, dict[str, slice]]

    @classmethod
    def of_answers(
        cls,
        statistic: Statistic,
        answers: Mapping[int, DomainSums],
        names: Sequence[str],
        stored: Mapping[str, Tensor],
    ) -> ExampleRows:
        """Put the nodes' rows one after another.

        Parameters
        ----------
        statistic : Statistic
            What was asked for.
        answers : Mapping[int, DomainSums]
            By node.
        names : Sequence[str]
            The domains.
        stored : Mapping[str, Tensor]
            The rows of domains that no node holds.
        """
        rows: dict[str, list[Tensor]] = defaultdict(list)
        places: dict[int, dict[str, slice]] = defaultdict(dict)
        for node, answer in answers.items():
            for (_, name), values in answer.sums.items():
                begin = sum(map(len, rows[name]))
                places[node][name] = slice(begin, begin + len(values))
                rows[name].append(values.to(torch.float64))
        own = {name: torch.cat(parts) for name, parts in rows.items()}
        known = {**stored, **own}
        leaves = [known[name].clone().requires_grad_() for name in names]
        return cls(statistic, names, leaves, own, dict(places))

    @property
    def is_used(self) -> bool:
        """Whether the penalty, differentiated, depends on any row."""
        return any(v.grad is not None and bool(v.grad.any()) for v in self.values)

    def term(self, examples: int, dtype: torch.dtype) -> Term:
        """Return the penalty's derivative by each row, for the node that has it.

        Parameters
        ----------
        examples : int
            Of all nodes: a client's loss is a mean over these.
        dtype : torch.dtype
            Of what travels.
        """
        gradients = {
            name: examples * torch.zeros_like(v) if v.grad is None else examples * v.grad
            for name, v in zip(self.names, self.values, strict=True)
        }
        by_node = {
            node: {name: gradients[name][rows].to(dtype) for name, rows in held.items()}
            for node, held in self.places.items()
        }
        return Term(self.statistic, {}, by_node=by_node)
