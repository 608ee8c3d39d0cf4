"""Small transformers, trained from the start: causal for the next token, or of a whole text.

Attention is written out, so that it can be vectorised over clients and differentiated twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.encoders import masked_mean
from atoll.clients.models.texts.tokens import as_tokens
from atoll.clients.ranges import Depth, Width

# In place of the score of a place that is not seen; finite, as a row may see no place.
UNSEEN = -1e9


class SelfAttention(nn.Module):
    """Self-attention with several heads (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, is_seen: Tensor) -> Tensor:
        """Map (n, length, width) to the same.

        Parameters
        ----------
        is_seen : Tensor
            bool, broadcast to (n, heads, length, length): which places each place sees.
        """
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in self.qkv(x).chunk(3, -1)
        )
        attended = attention(queries, keys, values, is_seen)
        mixed: Tensor = self.out(attended.transpose(-2, -3).flatten(-2))
        return mixed


def attention(queries: Tensor, keys: Tensor, values: Tensor, is_seen: Tensor) -> Tensor:
    """Return scaled dot-product attention: (n, heads, length, d) of tensors of that shape."""
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    return torch.softmax(torch.where(is_seen, scores, UNSEEN), -1) @ values


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, is_seen: Tensor) -> Tensor:
        """Map (n, length, width) to the same; ``is_seen`` as for :class:`SelfAttention`."""
        x = x + self.attention(self.norm1(x), is_seen)
        update: Tensor = self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return x + update


class Transformer(nn.Module):
    """Embeddings of tokens and places, blocks, and a linear head.

    Parameters
    ----------
    inputs : TokenInputs
        What it is given.
    outputs : int
        Outputs of the head.
    width, layers, heads : int
        Sizes.
    is_causal : bool
        Whether a place sees those up to it only, and outputs are those of every place; else
        every token is seen, and outputs are those of the mean.
    """

    def __init__(
        self,
        inputs: TokenInputs,
        outputs: int,
        *,
        width: int,
        layers: int,
        heads: int,
        is_causal: bool,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width = {width}: expected a multiple of heads = {heads}")
        self._padding, self._is_causal = inputs.padding, is_causal
        self.embedding = nn.Embedding(inputs.vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(inputs.length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to (n, length, outputs), or to (n, outputs)."""
        length, is_token = tokens.shape[-1], tokens != self._padding
        if self._is_causal:
            # Padding is at the end, where no token sees it.
            is_seen = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        else:
            is_seen = is_token[..., None, None, :]
        x = self.embedding(tokens) + self.position[:length]
        for block in self.blocks:
            x = block(x, is_seen)
        x = self.norm(x)
        logits: Tensor = self.head(x if self._is_causal else masked_mean(x, is_token))
        return logits


def char_transformer(
    inputs: Inputs, outputs: int, width: Width = 128, layers: Depth = 2, heads: Depth = 4
) -> nn.Module:
    """Return a causal transformer with outputs at every place: the next token.

    Parameters
    ----------
    width : int
        Numbers of a token's embedding.
    layers : int
        Blocks.
    heads : int
        Heads of a block's attention.
    """
    return Transformer(
        as_tokens(inputs), outputs, width=width, layers=layers, heads=heads, is_causal=True
    )


def text_transformer(
    inputs: Inputs, outputs: int, width: Width = 128, layers: Depth = 2, heads: Depth = 4
) -> nn.Module:
    """Return a transformer whose outputs are of the mean over a text's tokens.

    Parameters
    ----------
    width : int
        Numbers of a token's embedding.
    layers : int
        Blocks.
    heads : int
        Heads of a block's attention.
    """
    return Transformer(
        as_tokens(inputs), outputs, width=width, layers=layers, heads=heads, is_causal=False
    )
