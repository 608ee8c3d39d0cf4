"""Normalisation check: the scaling of images that explains an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.data.datasets.folder import NORMALIZATIONS
from atoll.extras import OptionalModule

optimize = OptionalModule("scipy.optimize", "atoll doctor")

# Means and deviations that are tried as they are: pixels in [0, 1], [-1, 1] and 0 .. 255, and
# those of weights that many use.
USUAL: tuple[tuple[Sequence[float], Sequence[float]], ...] = (
    ((0.0,), (1.0,)),
    ((0.5,), (0.5,)),
    ((0.0,), (1 / 255,)),
    *(pair for pair in NORMALIZATIONS.values() if pair is not None),
)
# Replays of the client that a fit takes at most.
REPLAYS = 160
# By how much a mean and the logarithm of a deviation are moved to begin with.
MOVE = 0.1


@dataclass(frozen=True)
class Scaling:
    """Affine map of pixels in [0, 1] to a model's input: factor * pixel + shift.

    Attributes
    ----------
    factor, shift : Tensor
        float64, shape (channels,).
    """

    factor: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Scaling:
        """Return the scaling by a mean and a deviation per channel."""
        means, deviations = (torch.tensor(v, dtype=torch.float64) for v in (mean, std))
        return cls(1 / deviations, -means / deviations)

    @property
    def mean(self) -> Tensor:
        """The mean that is subtracted: float64, shape (channels,), in units of [0, 1]."""
        return -self.shift / self.factor

    @property
    def std(self) -> Tensor:
        """The divisor: float64, shape (channels,), in units of [0, 1]."""
        return 1 / self.factor

    def __call__(self, images: Tensor) -> Tensor:
        """Scale images (n, channels, height, width) in [0, 1]."""
        factor, shift = (v.to(images)[:, None, None] for v in (self.factor, self.shift))
        return images * factor + shift

    def __str__(self) -> str:
        # Zero has a sign, which nobody wants to see.
        means = ", ".join(f"{value + 0.0:.4g}" for value in self.mean.tolist())
        deviations = ", ".join(f"{value:.4g}" for value in self.std.tolist())
        return f"mean {means} and std {deviations}"


def explain(
    wanted: Tensor,
    update_of: Callable[[Scaling], Tensor],
    explains: Callable[[Tensor], bool],
    candidates: Sequence[Scaling],
    *,
    fits: bool = True,
) -> Scaling | None:
    """Return a scaling of the images that gives an update, or None if none was found.

    The usual ones are tried, and the candidates. Where images have one channel, its mean and
    deviation are then fitted, from the nearest of them, by the simplex method of Nelder and Mead:
    for networks with kinks and norms, the distance of two updates is a cone.

    Parameters
    ----------
    wanted : Tensor
        The update, flat.
    update_of : Callable
        Returns the update, flat, that a client sends whose images are scaled so.
    explains : Callable
        Whether an update is near enough to the one that is wanted.
    candidates : Sequence[Scaling]
        Likely ones, not empty; they tell how many channels there are.
    fits : bool
        Whether others are looked for.
    """
    channels = len(candidates[0].factor)
    usual = [
        Scaling.of(list(mean) * (channels // len(mean)), list(std) * (channels // len(std)))
        for mean, std in USUAL
        if len(mean) in (1, channels)
    ]
    search = _Search(wanted, update_of, explains)
    for scaling in (*usual, *candidates):
        search.look(scaling)
        if search.found is not None:
            return search.found
    if fits and channels == 1 and search.best is not None:
        search.fit(search.best)
    return search.found


class _Search:
    """Search over scalings that ends with the first that explains the update."""

    def __init__(
        self,
        wanted: Tensor,
        update_of: Callable[[Scaling], Tensor],
        explains: Callable[[Tensor], bool],
    ) -> None:
        self._wanted, self._update_of, self._explains = wanted, update_of, explains
        self._least = math.inf
        self.best: Scaling | None = None
        self.found: Scaling | None = None

    def look(self, scaling: Scaling) -> float:
        """Return how far the update is that a scaling gives; infinite if it is not finite."""
        update = self._update_of(scaling)
        distance = float((update - self._wanted).norm())
        if not math.isfinite(distance):
            return math.inf
        if distance < self._least:
            self._least, self.best = distance, scaling
        if self._explains(update):
            self.found = scaling
        return distance

    def fit(self, start: Scaling) -> None:
        """Descend from one channel's mean and the logarithm of its deviation."""

        def distance(values: NDArray[np.float64]) -> float:
            return self.look(Scaling.of(values[:1].tolist(), np.exp(values[1:]).tolist()))

        def stop_if_found(values: NDArray[np.float64]) -> None:
            if self.found is not None:
                raise StopIteration

        first = np.array([float(start.mean), math.log(float(start.std))])
        options = {
            "initial_simplex": np.vstack([first, first + MOVE * np.eye(2)]),
            "maxfev": REPLAYS,
            "xatol": 1e-9,
            "fatol": 0.0,
        }
        optimize.minimize(
            distance, first, method="Nelder-Mead", callback=stop_if_found, options=options
        )
