"""Moments of domains from the nodes' sums, and those that are kept from round to round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor

from atoll.clients.moments.moment_messages import DomainSums


class StoredMoments(TypedDict):
    """A domain's last moments, for rounds without a client of it; plain data, for checkpoints."""

    count: int
    server_round: int
    # By the place in the round and the statistic's name.
    values: dict[str, Tensor]


def means_of(
    answers: Mapping[int, DomainSums], index: int, counts: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return a statistic's mean over the examples of each domain, float64, by domain.

    Parameters
    ----------
    answers : Mapping[int, DomainSums]
        The nodes' sums, by node.
    index : int
        The statistic's place among those that were asked for.
    counts : Mapping[str, int]
        Examples of each domain, over all nodes.
    """
    sums: dict[str, Tensor] = {}
    for answer in answers.values():
        for (i, name), values in answer.sums.items():
            if i == index:
                exact = values.to(torch.float64)
                sums[name] = sums[name] + exact if name in sums else exact
    return {name: total / counts[name] for name, total in sums.items()}
