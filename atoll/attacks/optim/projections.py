"""Projections of an attack's variables: onto an l1 ball, a sphere and a box.

The first dimension counts the images, and each is projected by itself. Nothing is changed in place.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project_l1_ball(values: Tensor, center: Tensor, radius: float) -> Tensor:
    """Return the points nearest to ``values`` within an l1 distance of ``center``.

    The projection shrinks all sizes by a threshold, at which what is left sums to the radius (Duchi
    et al., 2008). That sum falls along a convex line with corners, so Newton's method from below
    finds the threshold in a few steps, and sorts nothing (Condat, 2016).

    Parameters
    ----------
    values, center : Tensor
        Shape (n, ...); each row is projected by itself.
    radius : float
        At least 0; infinite leaves the values as they are.
    """
    moved = (values - center).flatten(1)
    size = moved.abs()
    threshold = ((size.sum(1, keepdim=True) - radius) / size.shape[1]).clamp_min(0.0)
    if not threshold.any():
        return values
    active, last = (size > threshold).sum(1, keepdim=True), None
    # What is active only becomes less: it ends.
    while last is None or not torch.equal(active, last):
        excess = (size - threshold).clamp_min(0.0).sum(1, keepdim=True) - radius
        threshold = torch.maximum(threshold, threshold + excess / active.clamp_min(1))
        active, last = (size > threshold).sum(1, keepdim=True), active
    shrunk: Tensor = moved - moved.clamp(-threshold, threshold)
    return center + shrunk.view(values.shape)


def row_norms(values: Tensor) -> Tensor:
    """Return the Euclidean norms that :func:`project_sphere` keeps, for broadcasting.

    A latent of shape (n, d) has a norm an image; one of more dimensions (a vector a layer, a noise
    map a channel) has a norm for each entry of its first two.
    """
    dimensions = tuple(range(min(2, values.dim() - 1), values.dim()))
    norms: Tensor = torch.linalg.vector_norm(values, dim=dimensions, keepdim=True)
    return norms


def project_sphere(values: Tensor, norms: Tensor) -> Tensor:
    """Return ``values`` scaled to the norms that :func:`row_norms` gave for where they started.

    A row of zeros stays where it is.
    """
    return values * (norms / row_norms(values).clamp_min(torch.finfo(values.dtype).tiny))


def project_box(values: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Return ``values`` clipped to ``low`` .. ``high``, which broadcast (one a channel, say)."""
    lower = torch.as_tensor(low, dtype=values.dtype, device=values.device)
    upper = torch.as_tensor(high, dtype=values.dtype, device=values.device)
    return torch.minimum(torch.maximum(values, lower), upper)
