"""Training of learned proximal networks by proximal matching (Fang et al., 2024, sec. 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atoll.attacks.priors.convex_network import ConvexNetwork
from atoll.clients.ranges import BatchSize, Depth, Iterations, Positive, Rate, Seed, Width
from atoll.clients.settings import Section
from atoll.clients.training.optimizers import Adam
from atoll.randomness import derive_seed

# Of the steps, the first half are on the squared error; the rest fall into stages of proximal
# matching, whose gamma goes evenly (on a log scale) from the noise's deviation to the last.
STAGES = 4


class ProximalSettings(Section):
    """Settings that determine a learned proximal network, beside its data.

    Attributes
    ----------
    steps, batch_size : int
        Of the optimiser, Adam.
    learning_rate : float
        Where it starts; it falls along a cosine to 0.
    width, layers : int
        Of the input-convex network.
    beta : float
        Sharpness of its softplus activation.
    noise : float
        Deviation of the noise that is taken away; images are in [0, 1].
    gamma : float
        Last gamma of the proximal matching, in units of the noise's deviation. The smaller, the
        nearer to the maximum of the posterior, and the less there is to descend.
    seed : int
        One seed, one network.
    """

    steps: Iterations = 3000
    batch_size: BatchSize = 64
    learning_rate: Rate = 2e-3
    width: Width = 32
    layers: Depth = 4
    beta: Positive = 10.0
    noise: Positive = 0.1
    gamma: Positive = 0.3
    seed: Seed = 0


class ProximalTraining:
    """A learned proximal network in training.

    Parameters
    ----------
    examples : Tensor
        float32, shape (n, ...): a vector or an image each.
    settings : ProximalSettings
        Steps and sizes.

    Attributes
    ----------
    network : ConvexNetwork
        The network.
    step : int
        Steps taken.
    loss : float
        The last step's.
    """

    def __init__(self, examples: Tensor, settings: ProximalSettings) -> None:
        self.settings = settings
        self.step = 0
        self.loss = math.nan
        self._examples = examples
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(settings.seed, "proximal network"))
            self.network = ConvexNetwork(
                tuple(examples.shape[1:]), settings.width, settings.layers, settings.beta
            )
        self._parameters: list[Tensor] = list(self.network.parameters())
        self._optimizer = Adam(settings.learning_rate, 0.0)

    def take_step(self) -> None:
        """Take one step of the optimiser."""
        settings = self.settings
        random = torch.Generator().manual_seed(
            derive_seed(settings.seed, "proximal step", self.step)
        )
        chosen = torch.randint(len(self._examples), (settings.batch_size,), generator=random)
        clean = self._examples[chosen]
        noisy = clean + settings.noise * torch.randn(clean.shape, generator=random)
        errors = (self.network(noisy) - clean).flatten(1).square().mean(1)
        loss = self._loss(errors)
        gradients = torch.autograd.grad(loss, self._parameters)
        progress = self.step / settings.steps
        self._optimizer.learning_rate = (
            settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        )
        with torch.no_grad():
            self._optimizer.step(self._parameters, list(gradients))
        self.loss = float(loss.detach())
        self.step += 1

    def _loss(self, errors: Tensor) -> Tensor:
        """Return the mean squared error, or that of proximal matching: 1 - exp(-|e|^2 / gamma^2).

        Errors and gamma are root mean squares over an example's values.
        """
        settings = self.settings
        done = 2 * self.step / settings.steps - 1
        if done < 0:
            return errors.mean() / settings.noise**2
        stage = min(STAGES - 1, int(STAGES * done))
        gamma = settings.noise * settings.gamma ** ((stage + 1) / STAGES)
        return 1 - torch.exp(-errors / gamma**2).mean()

    def finish(self) -> ConvexNetwork:
        """Return the network, frozen."""
        return self.network.eval().requires_grad_(False)
