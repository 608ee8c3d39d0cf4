"""MiniLM-L6: a pretrained transformer with BERT's architecture (Wang et al., 2020), and a head.

It is written out in plain PyTorch, so that it can be vectorised over clients and differentiated
twice. There is no dropout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.data.texts.minilm import minilm_file
from atoll.clients.encoders import masked_mean
from atoll.clients.models.texts.tokens import as_tokens
from atoll.clients.models.texts.transformer import attention


class BertSizes(NamedTuple):
    """Sizes of BERT's architecture."""

    vocabulary: int
    length: int
    width: int
    layers: int
    heads: int
    hidden: int


MINILM_L6 = BertSizes(30_522, 512, 384, 6, 12, 1_536)
EPSILON = 1e-12
# From names in a checkpoint to those here.
_RENAMED = (
    (r"embeddings\.word_embeddings", "words"),
    (r"embeddings\.position_embeddings", "places"),
    (r"embeddings\.token_type_embeddings", "kinds"),
    (r"embeddings\.LayerNorm", "norm"),
    (r"encoder\.layer\.(\d+)\.attention\.self", r"layers.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"layers.\1.mix"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", r"layers.\1.norm1"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"layers.\1.up"),
    (r"encoder\.layer\.(\d+)\.output\.dense", r"layers.\1.down"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm", r"layers.\1.norm2"),
)


class BertLayer(nn.Module):
    """Attention and a feed-forward layer, each added to its input before a LayerNorm."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        width, self._heads = sizes.width, sizes.heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.mix = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, sizes.hidden), nn.Linear(sizes.hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)

    def forward(self, x: Tensor, is_seen: Tensor) -> Tensor:
        """Map (n, length, width) to the same; ``is_seen`` is bool, (n, 1, 1, length)."""
        queries, keys, values = (
            layer(x).unflatten(-1, (self._heads, -1)).transpose(-2, -3)
            for layer in (self.query, self.key, self.value)
        )
        attended = attention(queries, keys, values, is_seen).transpose(-2, -3).flatten(-2)
        x = self.norm1(x + self.mix(attended))
        changed: Tensor = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return changed


class Bert(nn.Module):
    """BERT's encoder, the mean over a text's tokens, and a linear head.

    Parameters
    ----------
    sizes : BertSizes
        Sizes.
    padding : int
        The token that is none.
    outputs : int
        Outputs of the head.
    """

    def __init__(self, sizes: BertSizes, padding: int, outputs: int) -> None:
        super().__init__()
        self._padding = padding
        self.words = nn.Embedding(sizes.vocabulary, sizes.width)
        self.places = nn.Embedding(sizes.length, sizes.width)
        self.kinds = nn.Embedding(2, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, EPSILON)
        self.layers = nn.ModuleList(BertLayer(sizes) for _ in range(sizes.layers))
        self.head = nn.Linear(sizes.width, outputs)

    def states(self, tokens: Tensor) -> Tensor:
        """Return the last layer's states: (n, length, width) of tokens (n, length)."""
        is_token = tokens != self._padding
        # Looked up for each text, so that each has a gradient of its own (DP-SGD).
        places = torch.arange(tokens.shape[-1], device=tokens.device).expand_as(tokens)
        x = self.words(tokens) + self.places(places) + self.kinds(torch.zeros_like(tokens))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, is_token[..., None, None, :])
        states: Tensor = x
        return states

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to (n, outputs)."""
        mean = masked_mean(self.states(tokens), tokens != self._padding)
        logits: Tensor = self.head(mean)
        return logits

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of a ``BertModel``; its pooler is not used.

        Raises
        ------
        RuntimeError
            If they are of another architecture.
        """
        found = {
            own_name(key): value
            for key, value in weights.items()
            if not key.startswith("pooler.") and not key.endswith("position_ids")
        }
        head = {f"head.{key}": value for key, value in self.head.state_dict().items()}
        self.load_state_dict({**found, **head})


def own_name(key: str) -> str:
    """Return the name here of a tensor of a ``BertModel``."""
    for pattern, name in _RENAMED:
        key = re.sub(f"^{pattern}", name, key)
    return key


def minilm(
    inputs: Inputs,
    outputs: int,
    pretrained: bool = True,
) -> nn.Module:
    """Return MiniLM-L6 with a linear head on the mean of the tokens' states; 22.6 M parameters.

    Parameters
    ----------
    pretrained : bool
        Whether it has its weights (all-MiniLM-L6-v2, fetched once), or random ones.
    """
    given = as_tokens(inputs)
    _check_tokens(given)
    model = Bert(MINILM_L6, given.padding, outputs)
    if pretrained:
        model.load_encoder(load_file(minilm_file("model.safetensors")))
    return model


def _check_tokens(inputs: TokenInputs) -> None:
    if inputs.vocabulary != MINILM_L6.vocabulary:
        raise ValueError(
            f"it has {MINILM_L6.vocabulary} tokens of its own; expected data.options.tokenizer = "
            "'minilm'"
        )
    if inputs.length > MINILM_L6.length:
        raise ValueError(f"data.options.length: expected at most {MINILM_L6.length}")
