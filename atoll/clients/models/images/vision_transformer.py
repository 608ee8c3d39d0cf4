"""Vision transformer for small images (Dosovitskiy et al., 2021, arXiv 2010.11929)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.ranges import Depth, Pixels, Width

# What stands between the embedding and the first attention.
First = Literal["residual", "attention"]
# The feed-forward layers are wider than the tokens by this factor.
FEED_FORWARD = 2


class PatchEmbedding(nn.Module):
    """Tokens of an image: a linear map of each square patch, plus a position.

    Attributes
    ----------
    patch : int
        Side of a patch.
    map : nn.Linear
        Of a patch's values.
    position : nn.Parameter
        Shape (patches, width).
    """

    def __init__(self, image_shape: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        channels, height, across = image_shape
        self.patch = patch
        self.map = nn.Linear(channels * patch * patch, width)
        self.position = nn.Parameter(
            0.02 * torch.randn((height // patch) * (across // patch), width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to tokens (n, patches, width)."""
        patches = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        tokens: Tensor = self.map(patches) + self.position
        return tokens


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes
    ----------
    inputs : nn.Linear
        Queries, keys and values, one below the other.
    output : nn.Linear
        Of the joined heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, tokens, width) to the same shape."""
        parts = self.inputs(x).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts[0], parts[1], parts[2]
        shares = torch.softmax(queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5, -1)
        attended: Tensor = self.output((shares @ values).transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """Attention and a feed-forward layer, each residual, after a normalisation.

    Parameters
    ----------
    is_plain : bool
        Whether attention comes straight from the tokens, without residual and normalisation.
    """

    def __init__(self, width: int, heads: int, *, is_plain: bool) -> None:
        super().__init__()
        self.is_plain = is_plain
        self.attention = Attention(width, heads)
        self.before = nn.Identity() if is_plain else nn.LayerNorm(width)
        self.between = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, FEED_FORWARD * width),
            nn.GELU(),
            nn.Linear(FEED_FORWARD * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, tokens, width) to the same shape."""
        attended = self.attention(self.before(x))
        x = attended if self.is_plain else x + attended
        changed: Tensor = x + self.feed_forward(self.between(x))
        return changed


class VisionTransformer(nn.Module):
    """Vision transformer whose class is read off the mean token; see :func:`vit`."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        *,
        is_plain: bool,
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(image_shape, patch, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, is_plain=is_plain and place == 0) for place in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to logits (n, classes)."""
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(x))).mean(1))
        return logits


def vit(
    image_shape: tuple[int, int, int],
    classes: int,
    patch: Pixels = 4,
    width: Width = 64,
    depth: Depth = 2,
    heads: Width = 4,
    first: First = "residual",
) -> nn.Module:
    """Return a small vision transformer.

    Parameters
    ----------
    patch : int
        Side of a patch; it divides the image's sides.
    width : int
        Of a token, a multiple of ``heads``.
    depth : int
        Blocks.
    heads : int
        Of the attention.
    first : "residual" or "attention"
        "attention" connects the first attention straight to the embedding, without the residual
        connection and the normalisation: the architecture that APRIL inverts exactly.
    """
    _, height, across = image_shape
    if height % patch or across % patch:
        raise ValueError(f"patch = {patch}: expected a divisor of {height} and {across}")
    if width % heads:
        raise ValueError(f"width = {width}: expected a multiple of heads = {heads}")
    is_plain = first == "attention"
    return VisionTransformer(image_shape, classes, patch, width, depth, heads, is_plain=is_plain)
