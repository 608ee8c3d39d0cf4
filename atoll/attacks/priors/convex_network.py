"""Input-convex network: a learned convex function psi, whose gradient is a proximal map.

Whatever its parameters, psi is convex: weights between hidden layers are absolute values, and the
activation is convex and does not fall (Amos et al., 2017). So its gradient f is the proximal map of
some function R, which need not be convex (Gribonval and Nikolova, 2020; Fang et al., 2024, prop.
3.1).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# psi is at least so strongly convex, so that f can be inverted.
LEAST_CURVATURE = 1e-2
# The quadratic part at the start: f begins near half of the identity.
CURVATURE = 0.5


class ConvexNetwork(nn.Module):
    """Convex function psi of examples, with its gradient f.

    Images pass convolutions, of which every other one halves them, and a layer of units; vectors
    pass ``layers`` linear layers. Every layer is also given the example itself.

    Parameters
    ----------
    shape : tuple[int, ...]
        Of an example: (channels, height, width), or (values,).
    width : int
        Channels, or units, of a layer.
    layers : int
        How many.
    beta : float
        Sharpness of the softplus activation.

    Examples
    --------
    >>> import torch
    >>> network = ConvexNetwork((3,), width=8, layers=2, beta=10.0)
    >>> examples = torch.zeros(5, 3)
    >>> network.psi(examples).shape, network(examples).shape
    (torch.Size([5]), torch.Size([5, 3]))
    """

    def __init__(self, shape: tuple[int, ...], width: int, layers: int, beta: float) -> None:
        super().__init__()
        self.shape = shape
        self._beta = beta
        self._is_image = len(shape) == 3
        channels = shape[0]
        own: list[nn.Module] = []
        between: list[nn.Module] = []
        for layer in range(layers):
            if self._is_image:
                stride = 2 if layer % 2 else 1
                own.append(nn.Conv2d(channels, width, 3, padding=1))
                between.append(nn.Conv2d(width, width, 3, stride, padding=1, bias=False))
            else:
                own.append(nn.Linear(channels, width))
                between.append(nn.Linear(width, width, bias=False))
        self.own = nn.ModuleList(own)
        # The first layer has no hidden one before it.
        self.between = nn.ModuleList(between[1:])
        self.out = nn.Linear(self._features(width), 1, bias=False)
        self.curvature = nn.Parameter(torch.tensor(CURVATURE - LEAST_CURVATURE))
        with torch.no_grad():
            # Sums of positive weights grow with their number; these keep the scale of their input.
            for layer in [*self.between, self.out]:
                weight = cast(Tensor, layer.weight)
                weight.abs_().div_(weight[0].numel() ** 0.5)

    def _features(self, width: int) -> int:
        if not self._is_image:
            return width
        height, across = self.shape[1:]
        for layer in range(1, len(self.own)):
            if layer % 2:
                height, across = -(-height // 2), -(-across // 2)
        return width * height * across

    def psi(self, examples: Tensor) -> Tensor:
        """Return the convex function: shape (n,)."""
        hidden = self._activated(self.own[0](examples))
        given = examples
        layers = zip(list(self.own)[1:], self.between, strict=True)
        for place, (own, between) in enumerate(layers, 1):
            weight = cast(Tensor, between.weight).abs()
            if not self._is_image:
                passed = F.linear(hidden, weight)
            elif place % 2:
                given = F.avg_pool2d(given, 2, ceil_mode=True)
                passed = F.conv2d(hidden, weight, stride=2, padding=1)
            else:
                passed = F.conv2d(hidden, weight, padding=1)
            hidden = self._activated(passed + own(given))
        convex: Tensor = F.linear(hidden.flatten(1), self.out.weight.abs()).squeeze(1)
        curvature = LEAST_CURVATURE + self.curvature.abs()
        return convex + 0.5 * curvature * examples.flatten(1).square().sum(1)

    def forward(self, examples: Tensor) -> Tensor:
        """Return f, the gradient of psi; it can be differentiated where gradients are enabled."""
        wants_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            given = examples if examples.requires_grad else examples.detach().requires_grad_()
            [gradient] = torch.autograd.grad(self.psi(given).sum(), given, create_graph=wants_graph)
        return gradient

    def _activated(self, values: Tensor) -> Tensor:
        return F.softplus(values, beta=self._beta)
