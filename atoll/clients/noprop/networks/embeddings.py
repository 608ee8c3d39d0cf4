"""Class embeddings, which the blocks learn to predict from noise."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EmbeddingKind = Literal["one-hot", "orthogonal", "learned", "prototype"]

# Images compared at a time.
ROWS = 1024


def initial_embedding(
    kind: EmbeddingKind, classes: int, dimension: int, generator: torch.Generator
) -> Tensor:
    """Return the embedding matrix before training.

    Parameters
    ----------
    kind : str
        "one-hot" is the identity; "orthogonal" and "learned" are orthonormal rows if the
        dimension allows it and else random rows of unit length; "prototype" starts at zero and is
        filled from images (:func:`prototypes`).
    classes, dimension : int
        The shape; for "one-hot" both are the same.
    generator : torch.Generator
        Draws the rows.

    Returns
    -------
    Tensor
        float32, shape (classes, dimension).
    """
    if kind == "one-hot":
        return torch.eye(classes)
    if kind == "prototype":
        return torch.zeros(classes, dimension)
    drawn = torch.randn(classes, dimension, dtype=torch.float64, generator=generator)
    if dimension >= classes:
        orthonormal, triangle = torch.linalg.qr(drawn.T)
        # The signs make the draw uniform, and the same whatever LAPACK's convention is.
        rows: Tensor = (orthonormal * triangle.diagonal().sign()).T.float().contiguous()
        return rows
    return torch.nn.functional.normalize(drawn, dim=1).float()


def prototypes(images: Tensor, labels: NDArray[np.int64], classes: int) -> Tensor:
    """Return an image of each class: that with the least median distance to the class's others.

    Parameters
    ----------
    images : Tensor
        Normalised, shape (n, channels, height, width).
    labels : NDArray[int64]
        Shape (n,).
    classes : int
        How many there are.

    Returns
    -------
    Tensor
        Shape (classes, channels * height * width).

    Raises
    ------
    ValueError
        If a class has no image.
    """
    flat = images.flatten(1)
    rows = []
    for label in range(classes):
        own = flat[torch.from_numpy(np.flatnonzero(labels == label))]
        if not len(own):
            raise ValueError(f"class {label} has no training image to be its prototype")
        # The least of each row's distances is that to itself.
        place = (len(own) - 2) // 2 + 2
        medians = [_distances(part, own).kthvalue(place).values for part in torch.split(own, ROWS)]
        rows.append(own[torch.cat(medians).argmin()])
    return torch.stack(rows)


def _distances(some: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(some, others, compute_mode="use_mm_for_euclid_dist")
