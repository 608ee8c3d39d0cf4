"""Distances between domains at the model's head: gradients, Hessians, transfer measure.

The spectral norm of the difference of two domains' head Hessians bounds the transfer measure
between them (Hemati et al., 2023, with Zhang et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from atoll.clients.moments.head_statistics import HeadGradient, HessianProbes
from atoll.strategies.alignment.moments.domain_moments import Domains

PROBES = 16
POWER_ITERATIONS = 10
# The radius of the ball of heads and the steps in it (DomainBed's Transfer: delta, d_steps_per_g).
DELTA = 2.0
ASCENT_STEPS = 10


def measure_diagnostics(
    domains: Domains, seed: int, held_out: Sequence[str] = ()
) -> dict[str, float]:
    """Return how far each domain is from the mean of domains.

    Parameters
    ----------
    domains : Domains
        Without stored moments.
    seed : int
        Of the random vectors.
    held_out : Sequence[str]
        With some, only these domains are measured, against the mean of the others.

    Returns
    -------
    dict[str, float]
        By domain: ``gradient_distance_<domain>`` is ||g_e - mean g||;
        ``hessian_distance_<domain>`` estimates ||H_e - mean H||_F from 16 Rademacher probes;
        ``hessian_spectral_distance_<domain>`` estimates its spectral norm from below by 10 power
        iterations; ``transfer_<domain>`` is the transfer measure from the other domains to this
        one, from below (see :func:`transfer_measures`).
    """
    targets = tuple(held_out) or domains.names
    with torch.no_grad():
        contrasts = _contrasts(domains, targets, held_out)
        gradients, probed = domains.moments(HeadGradient(), HessianProbes(seed, PROBES))
        of_gradients = torch.linalg.vector_norm(contrasts @ gradients, dim=1)
        differences = torch.tensordot(contrasts, probed, 1)
        of_hessians = differences.square().sum(2).mean(1).sqrt()
        spectral = _spectral_norms(domains, contrasts, differences[:, 0])
        found = {
            "gradient_distance": of_gradients,
            "hessian_distance": of_hessians,
            "hessian_spectral_distance": spectral,
        }
        if len(domains) > 1:
            from_others = torch.stack(
                [_contrasts(domains, (name,), held_out or (name,))[0] for name in targets]
            )
            found["transfer"] = transfer_measures(domains, from_others, gradients.shape[1])
    return {
        f"{measure}_{name}": float(value)
        for place, name in enumerate(targets)
        for measure, value in ((m, values[place]) for m, values in found.items())
    }


def transfer_measures(domains: Domains, contrasts: Tensor, head_size: int) -> Tensor:
    """Return the transfer measure of each contrast, by its adversarial head.

    For a target T and sources S it is the largest L_T(h) - L_S(h) over the heads h within 2.0 of
    the present one in the Euclidean norm, the featuriser being fixed: the gap of DomainBed's
    Transfer (Zhang et al., "Quantifying and Improving Transferability in Domain Generalization",
    NeurIPS 2021, algorithm 1). It is found by projected ascent from the present head, and is the
    best of the heads that were seen, so a lower bound.

    Parameters
    ----------
    domains : Domains
        What is measured on.
    contrasts : Tensor
        Shape (k, n): 1 at the target, minus the sources' weights.
    head_size : int
        Parameters of the head.

    Returns
    -------
    Tensor
        Shape (k,), in nats; at least the present head's own difference.
    """
    moves = contrasts.new_zeros(len(contrasts), head_size)
    best = contrasts.new_full((len(contrasts),), -torch.inf)
    for step in range(ASCENT_STEPS + 1):
        losses, gradients = domains.moved_head_risks(moves)
        best = torch.maximum(best, torch.einsum("kn,nk->k", contrasts, losses))
        if step < ASCENT_STEPS:
            ascent = torch.einsum("kn,nkh->kh", contrasts, gradients)
            length = DELTA / math.sqrt(step + 1)
            moves = _into_ball(moves + length * _normalized(ascent))
    return best


def _contrasts(domains: Domains, targets: Sequence[str], excluded: Sequence[str]) -> Tensor:
    """Return a row a target: 1 at it, less the domains' weights without the excluded ones'."""
    weights = domains.weights.clone()
    weights[[domains.names.index(name) for name in excluded]] = 0.0
    rows = -(weights / weights.sum()).expand(len(targets), -1).clone()
    for row, name in zip(rows, targets, strict=True):
        row[domains.names.index(name)] += 1.0
    return rows


def _spectral_norms(domains: Domains, contrasts: Tensor, start: Tensor) -> Tensor:
    """Return the spectral norm of each contrast of Hessians, by power iterations.

    Parameters
    ----------
    contrasts : Tensor
        Shape (k, n).
    start : Tensor
        Shape (k, h): a vector for each, in the range of its difference.
    """
    vectors = _normalized(start)
    difference = torch.zeros_like(start)
    for _ in range(POWER_ITERATIONS):
        # Every domain's Hessian times every target's vector: the mean Hessian is in none alone.
        products = domains.hessian_products(vectors.expand(len(domains), *vectors.shape))
        difference = torch.einsum("kn,nkh->kh", contrasts, products)
        vectors = _normalized(difference)
    norms: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return norms


def _normalized(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / norms.clamp_min(1e-300)


def _into_ball(moves: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(moves, dim=1, keepdim=True)
    return moves * (DELTA / norms.clamp_min(DELTA))
