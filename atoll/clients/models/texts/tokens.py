"""What models of tokens share: their inputs, checked, and a sequence's last token."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.tokens import TokenInputs


def as_tokens(inputs: Inputs) -> TokenInputs:
    """Return inputs that are sequences of tokens.

    Raises
    ------
    ValueError
        If they are something else.
    """
    if isinstance(inputs, TokenInputs):
        return inputs
    raise ValueError("it takes sequences of tokens; expected another model")


def at_last_token(values: Tensor, is_token: Tensor) -> Tensor:
    """Return the values at each sequence's last token (the first place without any): (n, d)."""
    places = torch.arange(is_token.shape[-1], device=is_token.device)
    last = (is_token * places).amax(-1)
    return values.gather(-2, last[..., None, None].expand(*last.shape, 1, values.shape[-1]))[
        ..., 0, :
    ]
