"""Training of score networks: denoising at every level of noise (Karras et al., 2022)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from atoll.attacks.generators.network_training import NetworkTraining, StepSettings
from atoll.attacks.priors.score_network import DATA_DEVIATION, GROUPS, ScoreNetwork
from atoll.clients.ranges import Positive
from atoll.errors import InvalidExperimentError
from atoll.randomness import derive_seed

# Mean and deviation of the logarithm of the noise's deviation (table 1).
LOG_MEAN, LOG_DEVIATION = -1.2, 1.2


class ScoreSettings(StepSettings):
    """Settings that determine a score network, beside its data.

    Attributes
    ----------
    width : int
        Channels of the full image, a multiple of 8.
    noise : float
        The largest deviation of the noise, of images in [-1, 1].
    """

    width: Annotated[int, Field(gt=0, le=8_192, multiple_of=GROUPS)] = 32
    noise: Positive = 10.0


class ScoreTraining(NetworkTraining):
    """A score network in training.

    Parameters
    ----------
    images : Tensor
        float32, shape (n, channels, height, width), in [0, 1].
    settings : ScoreSettings
        Steps and sizes.

    Attributes
    ----------
    network : ScoreNetwork
        The network.

    Raises
    ------
    InvalidExperimentError
        If the examples are no images.
    """

    def __init__(self, images: Tensor, settings: ScoreSettings) -> None:
        if images.dim() != 4:
            raise InvalidExperimentError("--kind diffusion: is of images; expected images")
        self.settings = settings
        self._images = images
        channels, height, width = images.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(settings.seed, "score network"))
            self.network = ScoreNetwork((channels, height, width), settings.width, settings.noise)
        self._averages = [parameter.detach().clone() for parameter in self.network.parameters()]
        super().__init__(settings, "score", {"network": self.network}, len(images))

    def batch_loss(self, chosen: Tensor, random: torch.Generator) -> Tensor:
        """Return the loss of a batch, weighted as in EDM."""
        clean = 2 * self._images[chosen] - 1
        logarithms = LOG_MEAN + LOG_DEVIATION * torch.randn(len(clean), generator=random)
        deviations = logarithms.exp().clamp(max=self.settings.noise)
        noise = torch.randn(clean.shape, generator=random)
        denoised = self.network(clean + deviations.view(-1, 1, 1, 1) * noise, deviations)
        errors = (denoised - clean).flatten(1).square().mean(1)
        weights = (deviations.square() + DATA_DEVIATION**2) / (deviations * DATA_DEVIATION).square()
        loss: Tensor = (weights * errors).mean()
        return loss

    def averages(self) -> list[Tensor]:
        """Return the moving average of each parameter."""
        return self._averages

    def finish(self) -> ScoreNetwork:
        """Return the network with the moving average of its parameters, frozen."""
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self._averages, strict=True):
                parameter.copy_(average)
        return self.network.eval().requires_grad_(False)
