"""Encoders: inputs of tables and texts as one vector an example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.inputs.tokens import TokenInputs


def soft_categories(
    rows: Tensor, numbers: int, cardinalities: Sequence[int]
) -> tuple[Tensor, ...] | None:
    """Return each category column's weights, shape (n, cardinality), if rows have weights.

    Encoders of rows take them in the place of the categories' numbers: rows are then as wide as
    with one-hot vectors, and can be differentiated by their categories.

    Parameters
    ----------
    rows : Tensor
        Shape (n, ...): numbers and flags first.
    numbers : int
        How many numbers and flags there are.
    cardinalities : Sequence[int]
        Of the category columns.

    Returns
    -------
    tuple[Tensor, ...] or None
        None for rows with the categories' numbers.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.encoders import soft_categories
    >>> soft_categories(torch.tensor([[1.5, 2.0]]), 1, [3]) is None
    True
    >>> soft_categories(torch.tensor([[1.5, 0.0, 0.3, 0.7]]), 1, [3])
    (tensor([[0.0000, 0.3000, 0.7000]]),)
    """
    if rows.shape[-1] == numbers + len(cardinalities):
        return None
    return torch.split(rows[:, numbers:], list(cardinalities), -1)


class OneHotRows(nn.Module):
    """Rows with each category as its one-hot vector: (n, width of a row) to (n, ``width``).

    Rows with weights (:func:`soft_categories`) are encoded already.
    """

    def __init__(self, inputs: TableInputs) -> None:
        super().__init__()
        self.numbers, self.cardinalities = inputs.number_width, inputs.cardinalities
        self.width = self.numbers + sum(self.cardinalities)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the encoded rows."""
        if soft_categories(rows, self.numbers, self.cardinalities) is not None:
            return rows
        parts = [rows[:, : self.numbers]]
        for place, cardinality in enumerate(self.cardinalities, self.numbers):
            values = torch.arange(cardinality, dtype=rows.dtype, device=rows.device)
            parts.append((rows[:, place, None] == values).to(rows.dtype))
        return torch.cat(parts, 1)


class MeanEmbedding(nn.Module):
    """The mean of a sequence's embedded tokens: (n, length) to (n, ``width``)."""

    def __init__(self, inputs: TokenInputs, width: int) -> None:
        super().__init__()
        self.padding, self.width = inputs.padding, width
        self.embedding = nn.Embedding(inputs.vocabulary, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the means."""
        return masked_mean(self.embedding(tokens), tokens != self.padding)


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


def vector_encoder(inputs: Inputs, width: int) -> tuple[nn.Module, int]:
    """Return a module that maps inputs to vectors, and their size.

    Rows of tables are encoded as numbers and one-hot categories; of tokens it is the mean
    embedding, of ``width`` numbers; other inputs are flattened.
    """
    if isinstance(inputs, TableInputs):
        rows = OneHotRows(inputs)
        return rows, rows.width
    if isinstance(inputs, TokenInputs):
        return MeanEmbedding(inputs, width), width
    return nn.Flatten(), inputs.numbers(1)
