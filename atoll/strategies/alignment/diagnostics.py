"""How far apart domains are: their head gradients and head Hessians at the broadcast parameters.

The spectral norm of the difference of two domains' head Hessians bounds the transfer measure
between them (Hemati et al., 2023, with Zhang et al., 2021).
"""

from __future__ import annotations

import torch

from atoll.clients.moments.statistics import HeadGradient, HessianProbes
from atoll.strategies.alignment.domains import Domains

PROBES = 16
POWER_ITERATIONS = 10


def measure_diagnostics(domains: Domains, seed: int) -> dict[str, float]:
    """Return each domain's distances from the mean of domains.

    Parameters
    ----------
    domains : Domains
        Of the round, without stored moments.
    seed : int
        Of the random vectors.

    Returns
    -------
    dict[str, float]
        By domain: ``gradient_distance_<domain>`` is ||g_e - mean g||;
        ``hessian_distance_<domain>`` estimates ||H_e - mean H||_F from 16 Rademacher probes;
        ``hessian_spectral_distance_<domain>`` estimates its spectral norm from below by 10 power
        iterations.
    """
    with torch.no_grad():
        gradients, probed = domains.moments(HeadGradient(), HessianProbes(seed, PROBES))
        of_gradients = torch.linalg.vector_norm(gradients - domains.mean(gradients), dim=1)
        differences = probed - domains.mean(probed)
        of_hessians = differences.square().sum(2).mean(1).sqrt()
        spectral = _spectral_norms(domains, differences[:, 0])
    found = {}
    for place, name in enumerate(domains.names):
        found[f"gradient_distance_{name}"] = float(of_gradients[place])
        found[f"hessian_distance_{name}"] = float(of_hessians[place])
        found[f"hessian_spectral_distance_{name}"] = float(spectral[place])
    return found


def _spectral_norms(domains: Domains, start: torch.Tensor) -> torch.Tensor:
    """Return ||H_e - mean H||_2 for every domain e, all power iterations in the same queries.

    Parameters
    ----------
    start : Tensor
        Shape (n, h): a vector for each domain, in the range of its difference.
    """
    n = len(domains)
    norms: torch.Tensor = torch.linalg.vector_norm(start, dim=1, keepdim=True)
    vectors = start / norms.clamp_min(1e-300)
    for _ in range(POWER_ITERATIONS):
        # Every domain's Hessian times every domain's vector: the mean Hessian is in none alone.
        products = domains.hessian_products(vectors.expand(n, *vectors.shape))
        own = torch.diagonal(products, dim1=0, dim2=1).mT
        difference = own - domains.mean(products)
        norms = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
        vectors = difference / norms.clamp_min(1e-300)
    return norms[:, 0]
