"""BackSlash: a penalty on the bits that a model's parameters take once they are coded."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from atoll.clients.training.objective.term import ObjectiveTerm, TermBatch, TermContext, TermRun

# The shapes among which that of the parameters is looked for, as in the reproduction's table.
LEAST_SHAPE, MOST_SHAPE, SHAPES = 0.1, 3.0, 291
# Added to sizes: the derivative of |w|^shape at 0 is infinite for shapes below 1.
EPSILON = 1e-3


class CodingRate(ObjectiveTerm):
    """The rate of parameters with a generalised Gaussian distribution (Wu, Wen & Han, 2025).

    Its logarithm is a constant minus |w/scale|^shape, so the bits of a parameter grow with
    |w|^shape: the term is the mean of (|w| + 0.001)^shape over all trained parameters. The shape is
    that of the parameters before each step, by their moments E[w^2]/E[|w|]^2.

    Attributes
    ----------
    weight : float
        lambda, Lagrange's multiplier of the rate.
    shape : float or None
        2 for a Gaussian's, 1 for a Laplacian's; by default estimated.
    """

    shape: Annotated[float, Field(ge=LEAST_SHAPE, le=MOST_SHAPE, examples=[1.0])] | None = None

    def begin(self, context: TermContext) -> TermRun:
        """Return the mean rate as a loss."""
        by_name = dict(context.model.named_parameters())
        parameters = [by_name[name] for name in context.names]

        def loss(batch: TermBatch) -> Tensor:
            values = torch.cat([parameter.reshape(-1) for parameter in parameters])
            shape = self.shape if self.shape is not None else estimated_shape(values.detach())
            return ((values.abs() + EPSILON) ** shape).mean()

        return TermRun(loss=loss)


def estimated_shape(values: Tensor) -> Tensor:
    """Return the shape of a generalised Gaussian with the moments of some values: a scalar.

    Of mean 0, it has E[w^2]/E[|w|]^2 = Gamma(1/v) Gamma(3/v)/Gamma(2/v)^2 for the shape v (Sharifi
    & Leon-Garcia, 1995). Shapes are multiples of 0.01 from 0.1 to 3.

    Examples
    --------
    >>> import torch
    >>> values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    >>> round(estimated_shape(values).item(), 1)
    2.0
    """
    shapes, ratios = _table()
    ratio = values.double().square().mean() / values.double().abs().mean().square()
    # Ratios fall with the shape; values that are all zero have none, and count as the last.
    place = torch.searchsorted(ratios.flip(0), ratio).clamp(max=len(shapes) - 1)
    return shapes[len(shapes) - 1 - place].to(values)


@cache
def _table() -> tuple[Tensor, Tensor]:
    """Return the shapes and their ratios of moments, both float64, shape (SHAPES,)."""
    shapes = torch.linspace(LEAST_SHAPE, MOST_SHAPE, SHAPES, dtype=torch.float64)
    logs = torch.lgamma(1 / shapes) + torch.lgamma(3 / shapes) - 2 * torch.lgamma(2 / shapes)
    return shapes, logs.exp()
