"""Models with a Gaussian representation of an image, from which it is sampled.

As in FedSR (Nguyen, Torr and Lim, "FedSR: A Simple and Effective Domain Generalization Method for
Federated Learning", NeurIPS 2022): z ~ N(mu(x), diag(sigma(x)^2)), and a linear classifier of z.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.data.inputs.images import images_of
from atoll.clients.models import MODELS
from atoll.clients.models.head import find_head
from atoll.clients.models.model_building import given_arguments
from atoll.clients.ranges import Repetitions, Width
from atoll.clients.tasks.classification import classes_of
from atoll.clients.tasks.losses import is_sigmoid


class GaussianHead(nn.Module):
    """Head that samples z and classifies it; keeps the distribution that z's is compared with.

    In training an input has one draw, from the global generator. In evaluation its probabilities
    are the mean over draws with the same noise for every input, so that they are the same in any
    batch.

    Parameters
    ----------
    features : int
        The size of z; inputs are (mu, rho) of twice that size, with sigma = softplus(rho).
    outputs : int
        Logits.
    classes : int
        Labels.
    samples : int
        Draws of an input in evaluation.

    Attributes
    ----------
    reference_mean, reference_scale : Parameter
        Shape (classes, features): r(z | y) is the Gaussian with that mean, and with the softplus of
        that scale.
    factor : Parameter
        A scalar C: C z is what is compared with r(z | y).
    """

    noise: Tensor

    def __init__(
        self, features: int, outputs: int, classes: int, samples: Repetitions = 20
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)
        self.reference_mean = nn.Parameter(torch.zeros(classes, features))
        self.reference_scale = nn.Parameter(torch.ones(classes, features))
        self.factor = nn.Parameter(torch.ones(()))
        noise = torch.randn(samples, 1, features, generator=torch.Generator().manual_seed(0))
        # Not a part of the model that travels: it is the same everywhere.
        self.register_buffer("noise", noise, persistent=False)

    def distribution(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and sigma of inputs of shape (n, 2 * features): shape (n, features) each."""
        mean, scale = inputs.chunk(2, -1)
        return mean, F.softplus(scale)

    def draw(self, inputs: Tensor) -> Tensor:
        """Return one z for each input, shape (n, features), differentiable by the inputs."""
        mean, scale = self.distribution(inputs)
        return mean + scale * torch.randn_like(mean)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits, shape (n, outputs)."""
        if self.training:
            return self.linear(self.draw(inputs))  # type: ignore[no-any-return]
        mean, scale = self.distribution(inputs)
        return _mean_prediction(self.linear(mean + scale * self.noise))

    def divergences(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return KL(p(C z | x) || r(z | y)) of each input, in nats: shape (n,)."""
        mean, scale = self.distribution(inputs)
        mean, scale = self.factor * mean, self.factor.abs() * scale
        wanted_mean = self.reference_mean[labels]
        wanted_scale = F.softplus(self.reference_scale)[labels]
        squares = (scale.square() + (mean - wanted_mean).square()) / wanted_scale.square()
        return (wanted_scale.log() - scale.log() + (squares - 1) / 2).sum(1)


class GaussianModel(nn.Module):
    """A network that gives (mu, rho), and the head that draws from it."""

    def __init__(self, body: nn.Module, head: GaussianHead) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.normalization = getattr(body, "normalization", None)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.body(images))  # type: ignore[no-any-return]


def gaussian_representation(
    image_shape: tuple[int, int, int],
    classes: int,
    body: str = "lenet",
    features: Width | None = None,
    samples: Repetitions = 20,
    **arguments: Any,
) -> nn.Module:
    """Return another model with a Gaussian representation in the place of its last features.

    The body's linear head is replaced by a linear layer to mu and rho.

    Parameters
    ----------
    body : str
        The other model, by its name.
    features : int, optional
        The size of the representation; by default that of the inputs of the body's own head.
    samples : int
        Draws of an image in evaluation.
    **arguments
        The body's own.
    """
    make = MODELS.find(body, "model.body")
    network = make(
        **given_arguments(make, images_of(image_shape), classes_of(classes)), **arguments
    )
    last = find_head(network)
    if not isinstance(last, nn.Linear):
        raise ValueError(
            f"model.body = {body!r}: its head is a {type(last).__name__}; expected one Linear layer"
        )
    size = features or last.in_features
    name = next(name for name, module in network.named_modules() if module is last)
    network.set_submodule(name, nn.Linear(last.in_features, 2 * size))
    return GaussianModel(network, GaussianHead(size, last.out_features, classes, samples))


def _mean_prediction(logits: Tensor) -> Tensor:
    """Return the logits of the mean probabilities over the first dimension.

    Parameters
    ----------
    logits : Tensor
        Shape (samples, n, outputs).
    """
    if is_sigmoid(logits):
        return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)
    return F.log_softmax(logits, -1).logsumexp(0) - math.log(len(logits))
