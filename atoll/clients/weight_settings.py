"""Settings of what is trained in the place of a model's weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atoll.clients.ranges import Positive, Width
from atoll.clients.sections import Section

# How state_dict() calls what is trained in the place of a layer's weight.
TRAINED_WEIGHT = "parametrizations.weight.original"


class AdapterSettings(Section):
    """``[model.adapters]``: small trained updates of frozen layers.

    Attributes
    ----------
    kind : str
        "lora": to a linear layer's weight a product of two narrow matrices is added (Hu et al.,
        2021, arXiv 2106.09685).
    rank : int
        The narrow side of the two matrices.
    alpha : float
        The product is multiplied by ``alpha / rank``.
    targets : tuple[str, ...]
        Ends of the layers' names; by default all linear layers but the head.
    trained : tuple[str, ...]
        Beginnings of the names of layers that are trained whole; by default the head.
    """

    kind: Literal["lora"] = "lora"
    rank: Width = 8
    alpha: Positive = 16.0
    targets: Annotated[tuple[str, ...], Field(strict=False, examples=[["query", "value"]])] = ()
    trained: Annotated[tuple[str, ...], Field(strict=False, examples=[["head"]])] = ()


class MaskSettings(Section):
    """``[model.masks]``: weights are frozen, and a score decides which of them count.

    A weight counts where its score is over ``threshold`` (Zheng et al., 2023, "Regularized Mask
    Tuning"). The head is trained whole.

    Attributes
    ----------
    scale : float
        The scores at first; over ``threshold``, so that every weight counts.
    threshold : float
        Scores over it keep a weight.
    """

    scale: Positive = 0.01
    threshold: Positive = 0.005


class CompanderSettings(Section):
    """``[model.compander]``: a weight is w = a arctan(v/b) of what is trained.

    The function bounds large weights and, where a > b, makes small ones larger (Cakaj et al., 2023,
    "Weight Compander").

    Attributes
    ----------
    scale : float
        a at first: no weight is larger than a pi/2.
    width : float
        b at first: the slope at 0 is a/b.
    learned : bool
        Whether each layer's a and b are trained too.
    """

    scale: Positive = 1.0
    width: Positive = 1.0
    learned: bool = True
