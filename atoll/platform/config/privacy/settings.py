"""The section ``[privacy]`` of an experiment file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atoll.clients.ranges import Delta, Epsilon, NoiseMultiplier, Norm, Share
from atoll.clients.settings import Section
from atoll.privacy.kinds import Accountant, Sampling

# Steps of the clipping norm's logarithm.
ClippingRate = Annotated[float, Field(ge=1e-6, le=10.0)]


class PrivacySettings(Section):
    """``[privacy]``: differential privacy with a budget, which the noise is found from.

    Attributes
    ----------
    epsilon : float
        The budget: no round begins that would spend more.
    delta : float
        The probability with which the guarantee may fail; well below one by the number of clients
        (or of a client's examples).
    level : "client" or "example"
        Whose presence is hidden. "client" clips and adds noise on the server, to the mean of the
        updates. "example" does so on clients, in each step (the mod "dp-sgd" is added).
    clipping_norm : float
        The largest L2 norm of a client's update, or of an example's gradient.
    clipping : "fixed" or "adaptive"
        Whether the clipping norm of updates follows a quantile of their norms.
    quantile : float
        The share of updates that adaptive clipping keeps below the norm.
    clipping_rate : float
        The step of adaptive clipping.
    sampling : "fixed", "poisson" or "epochs"
        How a round's clients are drawn, and so what is claimed. "fixed": as many as the strategy
        says, without replacement; a client is exchanged for another. "poisson": each by itself; a
        client is there or not. "epochs": in a shuffled order, each once an epoch; a client's
        updates are there or are zero.
    mechanism : "gaussian" or "tree"
        Noise that is fresh each round, or that of DP-FTRL's tree of sums.
    accountant : "rdp" or "pld"
        Renyi differential privacy, or privacy loss distributions, which are closer for "poisson".
    noise_multiplier : float or None
        The noise's deviation by the clipping norm; by default the least with which all rounds keep
        the budget. If it is given, the run stops when the budget is spent.
    """

    epsilon: Annotated[Epsilon, Field(examples=[4.0])]
    delta: Annotated[Delta, Field(examples=[1e-5])]
    level: Literal["client", "example"] = "client"
    clipping_norm: Norm = 1.0
    clipping: Literal["fixed", "adaptive"] = "fixed"
    quantile: Share = 0.5
    clipping_rate: ClippingRate = 0.2
    sampling: Sampling = "fixed"
    mechanism: Literal["gaussian", "tree"] = "gaussian"
    accountant: Accountant = "rdp"
    noise_multiplier: Annotated[NoiseMultiplier | None, Field(examples=[1.0])] = None
