"""Identification: whether the true image is the nearest of many candidates to a reconstruction."""

from __future__ import annotations

from torch import Tensor

from atoll.attacks.metrics.image_assignment import squared_distances


def identified(images: Tensor, truth: Tensor, candidates: Tensor) -> Tensor:
    """Tell of each reconstruction whether its truth is nearer than every other candidate.

    Parameters
    ----------
    images, truth : Tensor
        Shape (n, channels, height, width), in [0, 1]; image i is the reconstruction of truth i.
    candidates : Tensor
        Other images of the same kind, shape (m, channels, height, width). By chance alone one in
        m + 1 is identified.

    Returns
    -------
    Tensor
        bool, shape (n,). A candidate that equals the truth does not count against it.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import identified
    >>> truth, candidates = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> identified(truth + 0.1, truth, candidates)
    tensor([True])
    """
    own = (images.double() - truth.double()).square().flatten(1).mean(1)
    nearest = squared_distances(images, candidates).min(1).values
    # Both are rounded, by different sums.
    return own <= nearest * (1 + 1e-9)
