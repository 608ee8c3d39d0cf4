"""Generator training: the decoder of a class-conditional variational autoencoder.

It is stable, fast and covers its data, which is what an attack needs: any image of the kind should
be close to some output. The noise of the reconstruction is at its optimum (sigma-VAE; Rybkin et
al., 2021, arXiv 2006.13202), so that there is nothing to weigh. Codes of a class do not quite fill
the prior, so a Gaussian is fitted to them in the end, and latents are drawn from it (Ghosh et al.,
2020, arXiv 1903.12436).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from atoll.attacks.generators.conditional import GROUPS, LEAK, ConditionalGenerator
from atoll.attacks.generators.network_training import NetworkTraining, StepSettings
from atoll.clients.ranges import Iterations, Width
from atoll.randomness import derive_seed

LEAST_VARIANCE = 1e-6
LOG_VARIANCES = (-10.0, 4.0)
ENCODED_AT_ONCE = 1024


class TrainingSettings(StepSettings):
    """Settings that determine a generator, beside its data.

    Attributes
    ----------
    latent, width : int
        See :class:`~atoll.attacks.generators.conditional.ConditionalGenerator`; the width is a
        multiple of 8.
    """

    steps: Iterations = 4000
    latent: Width = 64
    width: Annotated[int, Field(gt=0, le=8_192, multiple_of=GROUPS)] = 64


class Encoder(nn.Module):
    """Images and classes to the mean and log-variance of their codes."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, latent: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.LeakyReLU(LEAK)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        size = 128 * -(-height // 8) * -(-width // 8)
        self.hidden = nn.Linear(size + classes, 256)
        self.out = nn.Linear(256, 2 * latent)
        self.classes = classes

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (n, channels, h, w) in [0, 1] to two tensors of shape (n, latent)."""
        of_class = F.one_hot(labels, self.classes).to(images.dtype)
        hidden = self.hidden(torch.cat([self.body(images), of_class], 1))
        mean, log_variance = self.out(F.leaky_relu(hidden, LEAK)).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCES)


class GeneratorTraining(NetworkTraining):
    """A generator in training.

    Parameters
    ----------
    images : NDArray[uint8]
        Shape (n, height, width, channels).
    labels : NDArray[int64]
        Shape (n,).
    classes : int
        How many there are.
    settings : TrainingSettings
        Steps and sizes.

    Attributes
    ----------
    penalty : callable or None
        Returns what is added to each step's loss, a scalar in the graph of the generator's
        parameters.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        classes: int,
        settings: TrainingSettings,
    ) -> None:
        height, width, channels = images.shape[1:]
        shape = (channels, height, width)
        self.settings = settings
        self._pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        self._labels = torch.from_numpy(np.array(labels))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(settings.seed, "generator"))
            self.generator = ConditionalGenerator(shape, classes, settings.latent, settings.width)
            self.encoder = Encoder(shape, classes, settings.latent)
        self.penalty: Callable[[], Tensor] | None = None
        modules = {"generator": self.generator, "encoder": self.encoder}
        super().__init__(settings, "generator", modules, len(self._labels))

    def start_from(self, generator: nn.Module, encoder: nn.Module | None = None) -> None:
        """Begin with the parameters of another generator, and of its encoder if there is one."""
        self.generator.load_state_dict(
            {name: generator.state_dict()[name] for name in self.generator.state_dict()}
        )
        if encoder is not None:
            self.encoder.load_state_dict(encoder.state_dict())

    def train_encoder_alone(self) -> None:
        """Leave the generator as it is in all steps."""
        self._parameters = list(self.encoder.parameters())

    def batch_loss(self, chosen: Tensor, random: torch.Generator) -> Tensor:
        """Return the loss of a batch in nats a pixel, with the penalty."""
        images, labels = self._pixels[chosen].float() / 255, self._labels[chosen]
        mean, log_variance = self.encoder(images, labels)
        noise = torch.randn(mean.shape, generator=random)
        code = mean + noise * (log_variance / 2).exp()
        decoded = self.generator.decode_codes(code, labels)
        error = (decoded - images).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        # The Gaussian likelihood at its best variance, which is the error itself.
        loss: Tensor = 0.5 * torch.log(error + LEAST_VARIANCE) + divergence / images[0].numel()
        return loss if self.penalty is None else loss + self.penalty()

    @torch.no_grad()
    def finish(self) -> ConditionalGenerator:
        """Fit a Gaussian to the codes of each class, and return the generator that draws from it.

        The codes' distribution is a mixture of Gaussians, one an image; the fit has its mean and
        covariance. A class without images keeps the standard normal distribution.
        """
        pixels = torch.split(self._pixels, ENCODED_AT_ONCE)
        parts = zip(pixels, torch.split(self._labels, ENCODED_AT_ONCE), strict=True)
        encoded = [self.encoder(images.float() / 255, labels) for images, labels in parts]
        means, log_variances = (torch.cat(part).double() for part in zip(*encoded, strict=True))
        for label in range(len(self.generator.mean)):
            of_class = self._labels == label
            if not of_class.any():
                continue
            codes = means[of_class]
            covariance = torch.diag(log_variances[of_class].exp().mean(0))
            if len(codes) > 1:
                covariance += torch.cov(codes.T, correction=0)
            self.generator.mean[label] = codes.mean(0)
            self.generator.factor[label] = torch.linalg.cholesky(covariance)
        return self.generator.eval().requires_grad_(False)
