"""Baselines of a NoProp network: the same blocks chained, and a plain network.

The third baseline, an ensemble, is first blocks trained apart (``training_units.py``).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.encoders import vector_encoder
from atoll.clients.noprop.networks.blocks import (
    BLOCK_SIZES,
    Block,
    convolutional_part,
    flat_features,
)
from atoll.clients.noprop.networks.design import Design
from atoll.clients.settings import ModelSettings

# tanh(0.5) of each block's prediction is mixed in before training.
FIRST_MIX = 0.5


class ChainedBlocks(nn.Module):
    """The paper's baseline: a network's blocks, trained end to end by back-propagation.

    ``z_t = (1 - alpha_t) z_{t-1} + alpha_t u_t`` with ``alpha_t = tanh(w_t)`` learned, and a linear
    layer on z_T. It begins with z_0 = 0 and knows no noise.
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        self._variant = design.variant
        shared = design.make_shared_part()
        self.embedding = nn.Parameter(
            shared.embedding.detach().clone(), requires_grad=design.settings.embedding_is_trained
        )
        self.blocks = nn.ModuleList(design.make_block() for _ in range(design.blocks))
        self.mix = nn.Parameter(torch.full((design.blocks,), FIRST_MIX))
        self.head = nn.Linear(design.dimension, design.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, height, width) to logits (n, classes)."""
        z = self.embedding.new_zeros(len(images), self.embedding.shape[1])
        for place, module in enumerate(self.blocks):
            block = cast(Block, module)
            time = None
            if self._variant != "dt":
                time = z.new_full((1,), place / len(self.blocks))
            said = block(images, z, time).softmax(-1) @ self.embedding
            alpha = torch.tanh(self.mix[place])
            z = (1 - alpha) * z + alpha * said
        return self.head(z)  # type: ignore[no-any-return]


def plain_cnn(design: Design) -> nn.Module:
    """Return a plain network with a block's convolutions and as many parameters as all blocks.

    Between the convolutions (of tables and texts, a block's encoder) and the classes is one hidden
    layer, as wide as that takes.
    """
    size, dropout = BLOCK_SIZES[design.settings.block], design.settings.dropout
    with torch.random.fork_rng(devices=[]):
        wanted = design.blocks * _parameters(design.make_block())
    dropout = size.dropout if dropout is None else dropout
    if isinstance(design.inputs, ImageInputs):
        convolutions = convolutional_part(design.inputs.image_shape, size, dropout)
        flat = flat_features(design.inputs.image_shape, size)
    else:
        encoder, flat = vector_encoder(design.inputs, size.width)
        convolutions = [encoder]
    rest = wanted - sum(map(_parameters, convolutions)) - design.classes
    hidden = max(design.classes, round(rest / (flat + 1 + design.classes)))
    network = nn.Sequential(
        *convolutions,
        nn.Flatten(),
        nn.Linear(flat, hidden),
        nn.ReLU(),
        nn.Linear(hidden, design.classes),
    )
    if not isinstance(design.inputs, ImageInputs):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def chained_blocks(
    inputs: Inputs | tuple[int, int, int], classes: int, **arguments: Any
) -> ChainedBlocks:
    """Return the chain of NoProp-DT's blocks, with the arguments of that model."""
    return ChainedBlocks(_discrete_design(inputs, classes, arguments))


def equal_cnn(inputs: Inputs | tuple[int, int, int], classes: int, **arguments: Any) -> nn.Module:
    """Return the plain network of as many parameters, with the arguments of NoProp-DT."""
    return plain_cnn(_discrete_design(inputs, classes, arguments))


def _discrete_design(
    inputs: Inputs | tuple[int, int, int], classes: int, arguments: dict[str, Any]
) -> Design:
    model = ModelSettings.model_validate({"name": "noprop-dt", **arguments})
    return Design.of(model, inputs, classes)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
