"""Training of learned proximal networks by proximal matching (Fang et al., 2024, sec. 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.attacks.generators.network_training import NetworkTraining, StepSettings
from atoll.attacks.priors.convex_network import ConvexNetwork
from atoll.clients.ranges import Depth, Positive, Width
from atoll.randomness import derive_seed

# Of the steps, the first half are on the squared error; the rest fall into stages of proximal
# matching, whose gamma goes evenly (on a log scale) from the noise's deviation to the last.
STAGES = 4


class ProximalSettings(StepSettings):
    """Settings that determine a learned proximal network, beside its data.

    Attributes
    ----------
    width, layers : int
        Of the input-convex network.
    beta : float
        Sharpness of its softplus activation.
    noise : float
        Deviation of the noise that is taken away; images are in [0, 1].
    gamma : float
        Last gamma of the proximal matching, in units of the noise's deviation. The smaller, the
        nearer to the maximum of the posterior, and the less there is to descend.
    """

    width: Width = 32
    layers: Depth = 4
    beta: Positive = 10.0
    noise: Positive = 0.1
    gamma: Positive = 0.3


class ProximalTraining(NetworkTraining):
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
    """

    def __init__(self, examples: Tensor, settings: ProximalSettings) -> None:
        self.settings = settings
        self._clean = examples
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(settings.seed, "proximal network"))
            self.network = ConvexNetwork(
                tuple(examples.shape[1:]), settings.width, settings.layers, settings.beta
            )
        super().__init__(settings, "proximal", {"network": self.network}, len(examples))

    def batch_loss(self, chosen: Tensor, random: torch.Generator) -> Tensor:
        """Return the loss of a batch with its noise taken away."""
        clean = self._clean[chosen]
        noisy = clean + self.settings.noise * torch.randn(clean.shape, generator=random)
        return self._loss((self.network(noisy) - clean).flatten(1).square().mean(1))

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
