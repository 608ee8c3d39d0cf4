"""What models of tokens share: their inputs, checked, and means over the places of a sequence."""

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


def masked_mean(values: Tensor, is_token: Tensor) -> Tensor:
    """Return the mean over the places with a token; 0 without any.

    Parameters
    ----------
    values : Tensor
        Shape (n, length, d).
    is_token : Tensor
        bool, shape (n, length).
    """
    weights = is_token.to(values.dtype).unsqueeze(-1)
    return (values * weights).sum(-2) / weights.sum(-2).clamp_min(1)


def at_last_token(values: Tensor, is_token: Tensor) -> Tensor:
    """Return the values at each sequence's last token (the first place without any): (n, d)."""
    places = torch.arange(is_token.shape[-1], device=is_token.device)
    last = (is_token * places).amax(-1)
    return values.gather(-2, last[..., None, None].expand(*last.shape, 1, values.shape[-1]))[
        ..., 0, :
    ]
