"""FedLeak as options of attacks that match gradients (Fan et al., 2025, arXiv 2506.08435).

FedLeak's two techniques are partial gradient matching and gradient regularization. Its own
approximations of both are not followed: which entries are matched, and how the gradient's norm is
penalised, are said at :func:`~atoll.attacks.optim.matching.on_largest` and
:class:`~atoll.attacks.optim.minimize.GradientRegularization`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atoll.attacks.optim.matching import Cost, on_largest
from atoll.attacks.optim.minimize import GradientRegularization
from atoll.clients.ranges import Fraction, Positive
from atoll.clients.settings import Section


class FedLeakOptions(Section):
    """Options of FedLeak; as they are by default they change nothing.

    Attributes
    ----------
    matched : float
        FedLeak's partial gradient matching: the share of each parameter's entries that is matched,
        those of the largest observed magnitudes.
    regularization : float
        FedLeak's gradient regularization: the share of the gradient that is taken a step uphill.
    regularization_radius : float
        Length of that step, as the root mean square of the change of each value.
    """

    matched: Annotated[float, Field(ge=1e-6, le=1.0)] = 1.0
    regularization: Fraction = 0.0
    regularization_radius: Positive = 0.01

    def partial(self, cost: Cost) -> Cost:
        """Return a matching cost of the entries that are matched."""
        return on_largest(cost, self.matched)

    @property
    def gradient_regularization(self) -> GradientRegularization:
        """The regularization of a minimisation."""
        return GradientRegularization(self.regularization, self.regularization_radius)
