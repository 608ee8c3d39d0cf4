"""Training of score networks: denoising at every level of noise (Karras et al., 2022)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from atoll.attacks.priors.score_network import DATA_DEVIATION, GROUPS, ScoreNetwork
from atoll.clients.ranges import BatchSize, Iterations, Positive, Rate, Seed
from atoll.clients.settings import Section
from atoll.clients.training.optimizers import Adam
from atoll.errors import InvalidExperimentError
from atoll.randomness import derive_seed

# Mean and deviation of the logarithm of the noise's deviation (table 1).
LOG_MEAN, LOG_DEVIATION = -1.2, 1.2
AVERAGING = 0.995


class ScoreSettings(Section):
    """Settings that determine a score network, beside its data.

    Attributes
    ----------
    steps, batch_size : int
        Of the optimiser, Adam.
    learning_rate : float
        Where it starts; it falls along a cosine to 0.
    width : int
        Channels of the full image, a multiple of 8.
    noise : float
        The largest deviation of the noise, of images in [-1, 1].
    seed : int
        One seed, one network.
    """

    steps: Iterations = 3000
    batch_size: BatchSize = 64
    learning_rate: Rate = 2e-3
    width: Annotated[int, Field(gt=0, le=8_192, multiple_of=GROUPS)] = 32
    noise: Positive = 10.0
    seed: Seed = 0


class ScoreTraining:
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
    step : int
        Steps taken.
    loss : float
        The last step's.

    Raises
    ------
    InvalidExperimentError
        If the examples are no images.
    """

    def __init__(self, images: Tensor, settings: ScoreSettings) -> None:
        if images.dim() != 4:
            raise InvalidExperimentError("--kind diffusion: is of images; expected images")
        self.settings = settings
        self.step = 0
        self.loss = math.nan
        self._images = images
        channels, height, width = images.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(settings.seed, "score network"))
            self.network = ScoreNetwork((channels, height, width), settings.width, settings.noise)
        self._parameters: list[Tensor] = list(self.network.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer = Adam(settings.learning_rate, 0.0)

    def take_step(self) -> None:
        """Take one step of the optimiser; the loss is weighted as in EDM."""
        settings = self.settings
        random = torch.Generator().manual_seed(derive_seed(settings.seed, "score step", self.step))
        chosen = torch.randint(len(self._images), (settings.batch_size,), generator=random)
        clean = 2 * self._images[chosen] - 1
        logarithms = LOG_MEAN + LOG_DEVIATION * torch.randn(len(clean), generator=random)
        deviations = logarithms.exp().clamp(max=settings.noise)
        noise = torch.randn(clean.shape, generator=random)
        denoised = self.network(clean + deviations.view(-1, 1, 1, 1) * noise, deviations)
        errors = (denoised - clean).flatten(1).square().mean(1)
        weights = (deviations.square() + DATA_DEVIATION**2) / (deviations * DATA_DEVIATION).square()
        loss = (weights * errors).mean()
        gradients = torch.autograd.grad(loss, self._parameters)
        progress = self.step / settings.steps
        self._optimizer.learning_rate = (
            settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        )
        with torch.no_grad():
            self._optimizer.step(self._parameters, list(gradients))
            torch._foreach_lerp_(self._averages, self._parameters, 1 - AVERAGING)
        self.loss = float(loss.detach())
        self.step += 1

    def finish(self) -> ScoreNetwork:
        """Return the network with the moving average of its parameters, frozen."""
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self._averages, strict=True):
                parameter.copy_(average)
        return self.network.eval().requires_grad_(False)
