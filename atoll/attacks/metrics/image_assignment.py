"""Assignment of reconstructions to images: a gradient does not determine the order of its batch."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.attacks.metrics.example_metrics import hungarian


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared error of every pair: float64, shape (len(first), len(second)).

    Parameters
    ----------
    first, second : Tensor
        Images, each (n, channels, height, width), of the same size.
    """
    a, b = first.flatten(1).double(), second.flatten(1).double()
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square() / a.shape[1]


def assign(reconstructions: Tensor, truth: Tensor) -> Tensor:
    """Return which reconstruction stands for each true image: the least total squared error.

    By the Hungarian method. The order is for metrics only: no attack has the truth.

    Parameters
    ----------
    reconstructions, truth : Tensor
        Images, each (n, channels, height, width), in [0, 1]; there may be more reconstructions
        than true images, not fewer.

    Returns
    -------
    Tensor
        int64, shape (len(truth),): ``reconstructions[assign(...)]`` goes with ``truth``.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import assign
    >>> truth = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    >>> assign(truth.flip(0), truth)
    tensor([1, 0])
    """
    if len(reconstructions) < len(truth):
        raise ValueError(f"{len(reconstructions)} reconstructions of {len(truth)} images")
    return hungarian(squared_distances(truth, reconstructions))
