"""Assignment of layers to clients, balanced over clients and rounds."""

from __future__ import annotations

from collections.abc import Mapping


def deal_layers(capacities: Mapping[int, int], dealt: list[int]) -> dict[int, list[int]]:
    """Deal layers to clients, those first that have been dealt least; earlier ones on a tie.

    After every call the layers' counts differ by at most one, if they did before and no client
    takes more than there are; so a round's layers get the same number of clients, within one. In
    a round that cannot serve all layers alike, the earlier ones go first: they decide the label.

    Parameters
    ----------
    capacities : Mapping[int, int]
        How many layers each client takes.
    dealt : list[int]
        How often each layer has been dealt so far; changed in place.

    Returns
    -------
    dict[int, list[int]]
        Each client's layers, from 0 and in order; clients that take none are not in it.
    """
    assigned = {}
    for client, capacity in capacities.items():
        by_need = sorted(range(len(dealt)), key=lambda layer: (dealt[layer], layer))
        chosen = sorted(by_need[: max(0, capacity)])
        for layer in chosen:
            dealt[layer] += 1
        if chosen:
            assigned[client] = chosen
    return assigned
