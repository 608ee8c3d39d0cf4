"""NoProp networks with all blocks in one module: the models of ``[model]`` by name."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.noprop.networks.blocks import Block
from atoll.clients.noprop.networks.design import Design
from atoll.clients.noprop.networks.inference import AllWays, Inference, Noise, noise_of_runs
from atoll.clients.settings import ModelSettings


class NoPropNetwork(nn.Module):
    """All blocks in one module, for a federation and for inference in one process.

    ``forward`` is noise-free inference from a fixed draw of z_0.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import noprop_dt
    >>> network = noprop_dt((1, 8, 8), 10, block="small", steps=3).eval()
    >>> network(torch.zeros(2, 1, 8, 8)).shape  # logits after three denoising steps
    torch.Size([2, 10])
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        self.shared = design.make_shared_part()
        self.blocks = nn.ModuleList(design.make_block() for _ in range(design.blocks))

    def inference(self) -> Inference:
        """Return inference through all blocks."""
        blocks = {index: cast(Block, block) for index, block in enumerate(self.blocks)}
        return Inference(self.design, self.shared, blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images: (n, channels, height, width) to (n, classes)."""
        inference = self.inference()
        return inference.logits(inference.features(images), Noise(0))

    def inferences(self, images: Tensor, place: int) -> dict[str, Tensor]:
        """Return log-probabilities by way of inference, as evaluation wants them.

        Parameters
        ----------
        images : Tensor
            Shape (n, channels, height, width).
        place : int
            Place of the first image in the data set; it decides the noise.
        """
        inference = self.inference()
        noise = noise_of_runs(self.design.settings.mean_of, 0, place)
        return AllWays(inference, noise).run(inference.features(images))


def _network(
    name: str, inputs: Inputs | tuple[int, int, int], classes: int, arguments: dict[str, Any]
) -> NoPropNetwork:
    model = ModelSettings.model_validate({"name": name, **arguments})
    return NoPropNetwork(Design.of(model, inputs, classes))


def noprop_dt(
    inputs: Inputs | tuple[int, int, int], classes: int, **arguments: Any
) -> NoPropNetwork:
    """Return a NoProp-DT network: T blocks, a fixed noise schedule.

    Parameters
    ----------
    inputs : Inputs or tuple[int, int, int]
        What the network is given; channels, height and width stand for images of that shape.
    classes : int
        The number of classes.
    arguments
        Fields of the design: ``block``, ``steps``, ``embedding``, ...

    Examples
    --------
    >>> from atoll.clients import noprop_dt
    >>> network = noprop_dt((1, 8, 8), 10, block="small", steps=3)
    >>> len(network.blocks), len(network.inference().plan)  # a block for each step
    (3, 3)
    """
    return _network("noprop-dt", inputs, classes, arguments)


def noprop_ct(
    inputs: Inputs | tuple[int, int, int], classes: int, **arguments: Any
) -> NoPropNetwork:
    """Return a NoProp-CT network: continuous time, a learned noise schedule.

    Parameters
    ----------
    inputs : Inputs or tuple[int, int, int]
        What the network is given; channels, height and width stand for images of that shape.
    classes : int
        The number of classes.
    arguments
        Fields of the design: ``block``, ``steps``, ``embedding``, ...

    Examples
    --------
    >>> from atoll.clients import noprop_ct
    >>> network = noprop_ct((1, 8, 8), 10, block="small", steps=20)
    >>> len(network.blocks), len(network.inference().plan)
    (1, 20)
    """
    return _network("noprop-ct", inputs, classes, arguments)


def noprop_fm(
    inputs: Inputs | tuple[int, int, int], classes: int, **arguments: Any
) -> NoPropNetwork:
    """Return a NoProp-FM network: flow matching from noise to the label's embedding.

    Parameters
    ----------
    inputs : Inputs or tuple[int, int, int]
        What the network is given; channels, height and width stand for images of that shape.
    classes : int
        The number of classes.
    arguments
        Fields of the design: ``block``, ``steps``, ``embedding``, ...

    Examples
    --------
    >>> from atoll.clients import noprop_fm
    >>> network = noprop_fm((1, 8, 8), 10, block="small", steps=20)
    >>> len(network.blocks), len(network.inference().plan)
    (1, 20)
    """
    return _network("noprop-fm", inputs, classes, arguments)
