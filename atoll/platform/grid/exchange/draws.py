"""Inputs of a message's random state: its round, and the number of earlier messages of that round.

A client that gets two messages must not draw the same numbers twice.
"""

from __future__ import annotations

from collections.abc import Sequence


class Draws:
    """Numbers the messages of each node.

    Parameters
    ----------
    remembers : bool
        Whether messages of earlier exchanges count; else only those of one exchange do, and an
        exchange that is repeated in a round repeats its random numbers.
    """

    def __init__(self, *, remembers: bool) -> None:
        self._remembers = remembers
        self._last: dict[tuple[int, str], tuple[int, int]] = {}

    def number(
        self, messages: Sequence[tuple[int, str, int | None]]
    ) -> tuple[tuple[int, ...], ...]:
        """Return what each message's random state derives from.

        Parameters
        ----------
        messages : Sequence[tuple[int, str, int or None]]
            Per message its node, its category ("train") and its round. A message without a round
            counts as the one after the node's last of that category.

        Returns
        -------
        tuple
            Per message ``(round,)``, or ``(round, repetition)`` from the second of a round on.
        """
        if not self._remembers:
            self._last = {}
        return tuple(self._next(*message) for message in messages)

    def _next(self, node: int, category: str, server_round: int | None) -> tuple[int, ...]:
        last, repetition = self._last.get((node, category), (0, 0))
        if server_round is None:
            server_round = last + 1
        repetition = repetition + 1 if server_round == last else 0
        self._last[node, category] = server_round, repetition
        return (server_round, repetition) if repetition else (server_round,)
