"""Where an attack's variables may be: projections onto an l1 ball, a sphere and a box.

The first dimension counts the images, and each is projected by itself. Nothing is changed in place.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project_l1_ball(values: Tensor, center: Tensor, radius: float) -> Tensor:
    """Return the points nearest to ``values`` within an l1 distance of ``center``.

    Euclidean projection by sorting (Duchi et al., 2008, figure 1).

    Parameters
    ----------
    values, center : Tensor
        Shape (n, ...); each row is projected by itself.
    radius : float
        At least 0; infinite leaves the values as they are.
    """
    moved = (values - center).flatten(1)
    size = moved.abs()
    outside = size.sum(1) > radius
    if not outside.any():
        return values
    descending = size.sort(1, descending=True).values
    excess = descending.cumsum(1) - radius
    count = torch.arange(1, size.shape[1] + 1, device=size.device, dtype=size.dtype)
    # The last entry that is still above the threshold that the entries up to it imply.
    last = (count * descending > excess).sum(1, keepdim=True).clamp_min(1) - 1
    threshold = excess.gather(1, last) / (last + 1)
    inside = moved.sign() * (size - threshold).clamp_min(0)
    projected: Tensor = torch.where(outside[:, None], inside, moved)
    return center + projected.view(values.shape)


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
