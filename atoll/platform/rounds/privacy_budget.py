"""A stop before the round that would spend more than the budget of ``[privacy]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.rounds.round_options import StoppingRule

# An epsilon that was found from the budget is the budget, to rounding.
ROUNDING = 1e-9


class PrivacyBudget:
    """Stops after a round if the next one would spend more than there is; else asks another rule.

    Parameters
    ----------
    epsilon : float
        The budget.
    spent : callable
        Returns the epsilon after a number of rounds.
    other : StoppingRule, optional
        Early stopping.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> budget = PrivacyBudget(1.0, lambda rounds: 0.4 * rounds)
    >>> budget.should_stop(SimpleNamespace(server_round=1))
    >>> budget.should_stop(SimpleNamespace(server_round=2))
    'the next round would spend epsilon = 1.2, and the budget is 1'
    """

    def __init__(
        self,
        epsilon: float,
        spent: Callable[[int], float],
        other: StoppingRule | None = None,
    ) -> None:
        self._epsilon = epsilon
        self._spent = spent
        self._other = other

    def should_stop(self, record: RoundRecord) -> str | None:
        """Return why to stop after this round, or None."""
        reason = None if self._other is None else self._other.should_stop(record)
        if reason is not None:
            return reason
        after = self._spent(record.server_round + 1)
        if after <= self._epsilon * (1 + ROUNDING):
            return None
        budget = f"the budget is {self._epsilon:g}"
        return f"the next round would spend epsilon = {after:.4g}, and {budget}"

    def state_dict(self) -> dict[str, Any]:
        """Return the other rule's state: what is spent follows from the round."""
        return {} if self._other is None else self._other.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        if self._other is not None:
            self._other.load_state_dict(state)
