"""Models of tables: linear, with embedded categories, and FT-Transformer.

A row is what :class:`~atoll.clients.data.inputs.table.TableInputs` gives: numbers and flags first,
then the categories' numbers, 0 for one that clients' training examples do not have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.encoders import OneHotRows, soft_categories
from atoll.clients.models.mlp import Layers
from atoll.clients.ranges import Decay, Depth, Width

# FT-Transformer's feed-forward layers are wider than its tokens by this factor.
EXPANSION = 4 / 3


def table_linear(inputs: Inputs, outputs: int) -> nn.Module:
    """Return a linear model of numbers and one-hot categories: logistic or linear regression.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Classification, ModelSettings, build_model
    >>> from atoll.clients import CategoryColumn, NumberColumn, TableInputs
    >>> pain = CategoryColumn(name="pain", categories=("none", "some"))
    >>> inputs = TableInputs(columns=(NumberColumn(name="age"), pain))
    >>> task = Classification(classes=("no", "yes"))
    >>> model = build_model(ModelSettings(name="table-linear"), inputs, task, seed=0)
    >>> model[1], model(torch.tensor([[0.5, 2.0]])).shape
    (Linear(in_features=4, out_features=2, bias=True), torch.Size([1, 2]))
    """
    rows = OneHotRows(_of_table(inputs))
    return nn.Sequential(rows, nn.Linear(rows.width, outputs))


def table_mlp(
    inputs: Inputs,
    outputs: int,
    hidden: Layers = (128, 64),
    embedding: Width = 8,
    dropout: Decay = 0.0,
) -> nn.Module:
    """Return a multilayer perceptron of numbers and embedded categories, with ReLU.

    Parameters
    ----------
    hidden : Sequence[int]
        Units of each hidden layer.
    embedding : int
        The size of a category's embedding, at most; a column of few categories has half as many.
    dropout : float
        The share of hidden units that a step leaves out.
    """
    rows = EmbeddedRows(_of_table(inputs), embedding)
    layers: list[nn.Module] = [rows]
    width = rows.width
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def ft_transformer(
    inputs: Inputs,
    outputs: int,
    width: Width = 64,
    blocks: Depth = 2,
    heads: Width = 4,
    attention_dropout: Decay = 0.0,
    dropout: Decay = 0.0,
) -> nn.Module:
    """Return FT-Transformer: a transformer over a token for each number and category.

    Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021
    (arXiv 2106.11959); theirs has 3 blocks of width 192, 8 heads, and dropouts of 0.2 and 0.1.

    Parameters
    ----------
    width : int
        The size of a token.
    blocks : int
        Blocks of attention and feed-forward layers.
    heads : int
        Of attention; they divide the width.
    attention_dropout : float
        The share of attention weights that a step leaves out.
    dropout : float
        The share of feed-forward units that a step leaves out.
    """
    if width % heads:
        raise ValueError(f"heads = {heads}: does not divide width = {width}; expected a divisor")
    return FTTransformer(
        _of_table(inputs), outputs, width, blocks, heads, attention_dropout, dropout
    )


def _of_table(inputs: Inputs) -> TableInputs:
    if isinstance(inputs, TableInputs):
        return inputs
    raise ValueError("it takes rows of a table; expected another model")


class EmbeddedRows(nn.Module):
    """Rows with each category as its embedding: (n, width of a row) to (n, ``width``)."""

    def __init__(self, inputs: TableInputs, embedding: int) -> None:
        super().__init__()
        self.numbers, self.cardinalities = inputs.number_width, inputs.cardinalities
        sizes = [min(embedding, (count + 1) // 2) for count in inputs.cardinalities]
        self.embeddings = nn.ModuleList(
            nn.Embedding(count, size)
            for count, size in zip(inputs.cardinalities, sizes, strict=True)
        )
        self.width = self.numbers + sum(sizes)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the encoded rows."""
        soft = soft_categories(rows, self.numbers, self.cardinalities)
        if soft is None:
            codes = rows[:, self.numbers :].long()
            embedded = [table(codes[:, place]) for place, table in enumerate(self.embeddings)]
        else:
            tables: list[Tensor] = list(self.embeddings.parameters())
            embedded = [weights @ table for weights, table in zip(soft, tables, strict=True)]
        return torch.cat([rows[:, : self.numbers], *embedded], 1)


class RowTokens(nn.Module):
    """Rows as tokens: one to be read at the end, then one for each number and category.

    Parameters
    ----------
    inputs : TableInputs
        What a row is.
    width : int
        The size of a token.
    """

    def __init__(self, inputs: TableInputs, width: int) -> None:
        super().__init__()
        self.numbers, self.cardinalities = inputs.number_width, inputs.cardinalities
        bound = 1 / math.sqrt(width)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.summary = uniform(1, width)
        self.scales = uniform(self.numbers, width)
        self.embeddings = nn.ParameterList(uniform(count, width) for count in inputs.cardinalities)
        self.offsets = uniform(self.numbers + len(inputs.cardinalities), width)

    def forward(self, rows: Tensor) -> Tensor:
        """Return tokens: (n, 1 + numbers + categories, width)."""
        numbers = rows[:, : self.numbers, None] * self.scales
        soft = soft_categories(rows, self.numbers, self.cardinalities)
        if soft is None:
            codes = rows[:, self.numbers :].long()
            categories = [
                nn.functional.embedding(codes[:, place], table)[:, None]
                for place, table in enumerate(self.embeddings)
            ]
        else:
            categories = [
                (weights @ table)[:, None]
                for weights, table in zip(soft, self.embeddings, strict=True)
            ]
        tokens = torch.cat([numbers, *categories], 1) + self.offsets
        return torch.cat([self.summary.expand(len(rows), 1, -1), tokens], 1)


class TokenAttention(nn.Module):
    """Self-attention over tokens (n, tokens, width), written out for ``torch.func``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens that attention gives."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        mixed: Tensor = self.dropout(scores.softmax(-1)) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


class _Block(nn.Module):
    """Attention, then a feed-forward layer with ReGLU, each normalised first and added."""

    def __init__(
        self, width: int, heads: int, attention_dropout: float, dropout: float, *, is_first: bool
    ) -> None:
        super().__init__()
        # The paper's first block has no normalisation before its attention.
        self.before = nn.Identity() if is_first else nn.LayerNorm(width)
        self.attention = TokenAttention(width, heads, attention_dropout)
        self.norm = nn.LayerNorm(width)
        hidden = int(width * EXPANSION)
        self.widen, self.narrow = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens after the block."""
        tokens = tokens + self.attention(self.before(tokens))
        values, gates = self.widen(self.norm(tokens)).chunk(2, -1)
        added: Tensor = self.narrow(self.dropout(values * gates.relu()))
        return tokens + added


class FTTransformer(nn.Module):
    """FT-Transformer; see :func:`ft_transformer`."""

    def __init__(
        self,
        inputs: TableInputs,
        outputs: int,
        width: int,
        blocks: int,
        heads: int,
        attention_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokens = RowTokens(inputs, width)
        self.blocks = nn.Sequential(
            *(
                _Block(width, heads, attention_dropout, dropout, is_first=place == 0)
                for place in range(blocks)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs, (n, outputs), for rows (n, width of a row)."""
        summary = self.blocks(self.tokens(rows))[:, 0]
        outputs: Tensor = self.head(self.norm(summary).relu())
        return outputs
