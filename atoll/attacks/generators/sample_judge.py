"""Judge of a generator's samples: a small classifier, and the Frechet distance of its features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.training.optimizers import Adam
from atoll.extras import OptionalModule

linear_algebra = OptionalModule("scipy.linalg", "the Frechet distance")

STEPS, BATCH, RATE = 600, 128, 2e-3


class SampleJudge:
    """A small convolutional classifier of images in [0, 1], and its features.

    Parameters
    ----------
    images : NDArray[uint8]
        What it learns from, shape (n, height, width, channels).
    labels : NDArray[int64]
        Shape (n,).
    classes : int
        How many there are.
    seed : int
        One seed, one classifier.
    steps : int
        Of Adam, on batches of 128.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        classes: int,
        *,
        seed: int = 0,
        steps: int = STEPS,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = _classifier(images.shape[3], images.shape[1:3], classes)
        self._learn(as_tensor(images), torch.from_numpy(labels.copy()), seed, steps)

    def _learn(self, images: Tensor, labels: Tensor, seed: int, steps: int) -> None:
        random = torch.Generator().manual_seed(seed)
        parameters: list[Tensor] = list(self.network.parameters())
        optimizer = Adam(RATE, 0.0)
        for _ in range(steps):
            chosen = torch.randint(len(labels), (BATCH,), generator=random)
            loss = F.cross_entropy(self.network(images[chosen]), labels[chosen])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                optimizer.step(parameters, list(gradients))
        self.network.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """Return the last hidden layer, before its ReLU: shape (n, 64)."""
        found: Tensor = self.network[:-2](images)
        return found

    def classes_of(self, images: Tensor) -> Tensor:
        """Return the predicted classes: int64, shape (n,)."""
        predicted: Tensor = self.network(images).argmax(1)
        return predicted

    def distance(self, images: Tensor, others: Tensor) -> float:
        """Return the Frechet distance of two sets of images, by Gaussians of their features."""
        return frechet_distance(
            self.features(images).double().numpy(), self.features(others).double().numpy()
        )


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the Frechet distance of the Gaussians with the moments of two samples.

    Parameters
    ----------
    first, second : NDArray[float64]
        Shapes (n, d) and (m, d).

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.attacks.generators.sample_judge import frechet_distance
    >>> sample = np.random.default_rng(0).normal(size=(100, 2))
    >>> round(frechet_distance(sample, sample + [3.0, 4.0]), 4)  # the squared shift of the mean
    25.0
    """
    difference = first.mean(0) - second.mean(0)
    a, b = np.cov(first.T), np.cov(second.T)
    root: Callable[..., NDArray[np.complex128]] = linear_algebra.sqrtm
    return float(difference @ difference + np.trace(a + b - 2 * np.real(root(a @ b))))


def as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Return images (n, height, width, channels) as a tensor in [0, 1], channels first."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


def _classifier(channels: int, sides: tuple[int, ...], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
    flat = 64 * -(-sides[0] // 8) * -(-sides[1] // 8)
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, 64), nn.ReLU(), nn.Linear(64, classes)
    )
