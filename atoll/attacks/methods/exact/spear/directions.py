"""Directions of a batch in the gradient of a linear layer with a ReLU (Dimitrov et al., 2024).

The gradient of z = W x + b over a batch is dL/dW = D X: D has a column an example, dL/dz, and X a
row an example. It has the rank of the batch. The columns of D are sparse, because dL/dz is zero
where the ReLU is off. So D is that basis of the gradient's columns that is the sparsest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# An entry of so many standard deviations of the noise, or less, is taken for zero.
ZERO = 6.0
# Reweighting: how small an entry is, of the root mean square, that counts as zero, by steps; then
# it falls by tens to the noise.
FIRST, FACTOR, STEPS, LAST_FACTOR, LAST_STEPS = 0.5, 0.9, 20, 0.1, 7
# A vector that is farther than this from all of a subspace is not in it.
INDEPENDENT = 1e-3
# Noise is at least this, of the largest singular value: least squares in float64 have more error
# than the values themselves.
ROUNDING = 1e-11


@dataclass(frozen=True)
class Decomposition:
    """Gradient of a layer as whitened rows times a basis of its row space.

    Attributes
    ----------
    rows : Tensor
        Shape (live, rank): the rows of the gradient that are more than noise, in the basis.
    live : Tensor
        bool, shape (units,): which rows these are.
    noise : Tensor
        Shape (rank,): standard deviation of the noise in each column of ``rows``.
    basis : Tensor
        Shape (rank, inputs + 1): the basis, each vector times its scale in ``rows``.
    """

    rows: Tensor
    live: Tensor
    noise: Tensor
    basis: Tensor

    @property
    def rank(self) -> int:
        """The number of examples that can be told apart."""
        return len(self.noise)

    def zeros(self, directions: Tensor) -> Tensor:
        """Tell which entries of D's columns are zero but for noise: bool, (directions, live)."""
        limits = ZERO * (directions * self.noise).norm(dim=1, keepdim=True)
        small: Tensor = (directions @ self.rows.T).abs() <= limits
        return small


@dataclass(frozen=True)
class Directions:
    """Directions with their sparsity.

    Attributes
    ----------
    vectors : Tensor
        Shape (directions, rank), of norm 1: what ``rows`` are multiplied by to have a column of D.
    counts : Tensor
        int64, shape (directions,): the zeros of each column.
    """

    vectors: Tensor
    counts: Tensor


def decompose(gradient: Tensor, batch: int) -> Decomposition:
    """Return the decomposition of a gradient of a batch.

    The noise is estimated from what is beyond the rank of the batch: rounding, or a defense's.

    Parameters
    ----------
    gradient : Tensor
        float64, shape (units, inputs + 1): by the weight, and by the bias in the last column, whose
        inputs are all 1. Both sides are larger than ``batch``.
    batch : int
        How many examples it is of.
    """
    units, width = gradient.shape
    _, scales, basis = torch.linalg.svd(gradient, full_matrices=False)
    beyond = scales[batch:].square().sum() / ((units - batch) * (width - batch))
    deviation = float(torch.maximum(beyond.sqrt(), ROUNDING * scales[0]).clamp_min(1e-300))
    # The largest singular value of noise alone, and a half more.
    limit = 1.5 * deviation * (units**0.5 + width**0.5)
    rank = max(1, int((scales[:batch] > limit).sum()))
    scales, basis = scales[:rank] / units**0.5, basis[:rank]
    rows, noise = gradient @ basis.T / scales, deviation / scales
    live = rows.norm(dim=1) > ZERO * noise.norm()
    return Decomposition(rows[live], live, noise, basis * scales[:, None])


def sample(found: Decomposition, count: int, generator: torch.Generator) -> Tensor:
    """Return directions that make rank - 1 random rows zero, as SPEAR does: (count, rank)."""
    order = torch.rand(count, len(found.rows), generator=generator).argsort(1)
    chosen = found.rows[order[:, : max(1, found.rank - 1)]]
    return _least_vectors(chosen.transpose(1, 2) @ chosen)


def reweight(found: Decomposition, directions: Tensor) -> Tensor:
    """Return sparser directions near the given ones: (directions, rank).

    Each step minimises the sum of squared entries, divided by what they were before: entries that
    are small become zero (iteratively reweighted least squares on the logarithm of the entries;
    Candes et al., 2008). A random start seldom has the zeros of one example; after it one in some
    does.
    """
    squares = (found.rows[:, :, None] * found.rows[:, None, :]).flatten(1)
    least = ZERO / 2 * float(found.noise.norm())
    size = FIRST
    for step in range(STEPS + LAST_STEPS):
        entries = directions @ found.rows.T
        typical = entries.square().mean(1, keepdim=True).sqrt()
        edge = (size * typical).clamp_min(least)
        directions = _least(squares, 1 / (entries.square() + edge.square()))
        size *= FACTOR if step < STEPS else LAST_FACTOR
    return directions


def settle(found: Decomposition, directions: Tensor) -> Directions:
    """Return the directions with the least error for their zeros, and these counted."""
    squares = (found.rows[:, :, None] * found.rows[:, None, :]).flatten(1)
    for _ in range(2):
        directions = _least(squares, found.zeros(directions).double())
    return Directions(directions, found.zeros(directions).sum(1))


def sparsest_basis(first: Directions, *others: Directions) -> Directions:
    """Return the sparsest independent directions, in order: at most as many as the rank.

    Taking the sparsest that is independent of those before gives the sparsest basis of all that
    there are, since independent sets are a matroid. A mixture of examples has fewer zeros than each
    of them.
    """
    vectors = torch.cat([first.vectors, *(one.vectors for one in others)])
    counts = torch.cat([first.counts, *(one.counts for one in others)])
    spanned = vectors.new_zeros(0, vectors.shape[1])
    chosen: list[int] = []
    for place in torch.argsort(counts, descending=True, stable=True).tolist():
        if len(chosen) == vectors.shape[1]:
            break
        vector = vectors[place]
        rest = vector - spanned.T @ (spanned @ vector)
        if float(rest.norm()) > INDEPENDENT:
            spanned = torch.cat([spanned, (rest / rest.norm())[None]])
            chosen.append(place)
    return Directions(vectors[chosen], counts[chosen])


def inputs_of(found: Decomposition, directions: Directions) -> Tensor:
    """Return the examples of a whole basis, with the input of the bias last: (rank, inputs + 1).

    The input of the bias is 1, which gives the scale that a direction lacks.
    """
    # D = rows Q and rows basis = D X, so X = Q^-1 basis; a direction is a column of Q. The default
    # driver, gelsy, starts from pivots that PyTorch leaves uninitialised: its last bits vary.
    mixed: Tensor = torch.linalg.lstsq(directions.vectors.T, found.basis, driver="gelsd").solution
    scale = mixed[:, -1:]
    safe = torch.where(scale.abs() < 1e-300, 1.0, scale)
    return mixed / safe


def agreement(
    found: Decomposition, directions: Directions, inputs: Tensor, weight: Tensor
) -> Tensor:
    """Return the share of units that are on for an example and have a gradient, or neither.

    Parameters
    ----------
    inputs : Tensor
        Shape (n, inputs + 1), one a direction.
    weight : Tensor
        Shape (units, inputs + 1): weight and bias of the layer.

    Returns
    -------
    Tensor
        Shape (n,): 1 for an example that is exact.
    """
    has_gradient = torch.zeros(len(inputs), len(weight), dtype=torch.bool)
    has_gradient[:, found.live] = ~found.zeros(directions.vectors)
    return (has_gradient == (inputs @ weight.T > 0)).double().mean(1)


def _least(squares: Tensor, weights: Tensor) -> Tensor:
    """Return the unit vectors of the least weighted squares: (directions, rank)."""
    rank = round(squares.shape[1] ** 0.5)
    return _least_vectors((weights @ squares).view(-1, rank, rank))


def _least_vectors(symmetric: Tensor) -> Tensor:
    """Return the eigenvectors of the least eigenvalues: (..., rank)."""
    vectors: Tensor = torch.linalg.eigh(symmetric).eigenvectors
    return vectors[..., 0]
