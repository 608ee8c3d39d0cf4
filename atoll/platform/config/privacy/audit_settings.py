"""The section ``[audit]`` of an experiment file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atoll.clients.ranges import Count, Norm
from atoll.clients.settings import Section

Confidence = Annotated[float, Field(ge=0.5, le=0.999999)]


class AuditSettings(Section):
    """``[audit]``: canaries among the clients, by which ``atoll audit`` bounds epsilon from below.

    Attributes
    ----------
    canaries : int
        How many clients are canaries: those with the largest node ids. By a coin of its own a
        canary's update is a random direction, or zero. With ``privacy.level = "example"`` it is
        how many examples of the last client are, and their gradients.
    norm : float or None
        The L2 norm of a canary's update, or gradient, before it is clipped; by default ten times
        ``privacy.clipping_norm``.
    confidence : float
        With which epsilon is above the bound.
    """

    canaries: Annotated[Count, Field(examples=[50])]
    norm: Annotated[Norm | None, Field(examples=[10.0])] = None
    confidence: Confidence = 0.95
