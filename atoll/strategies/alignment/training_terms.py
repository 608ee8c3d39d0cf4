"""Training terms of a round: a method's penalty, differentiated by the domains' moments."""

from __future__ import annotations

import torch

from atoll.clients.moments.moment_messages import Term, TrainingTerms
from atoll.strategies.alignment.alignment_method import AlignmentMethod
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.alignment.moments.moment_exchange import NodesFailedError
from atoll.strategies.alignment.penalty import check_penalty, check_terms
from atoll.user_code.error_places import user_code


def training_terms(
    method: AlignmentMethod, server_round: int, domains: Domains, report: dict[str, float]
) -> TrainingTerms:
    """Return the terms of the clients' losses in a round.

    Parameters
    ----------
    method : AlignmentMethod
        Its memory, and its stored moments, change with the round.
    server_round : int
        The round, from 1.
    domains : Domains
        The moments of the round's domains, queried as the penalty asks for them.
    report : dict[str, float]
        The round's metrics of the server, which the penalty's value is added to.

    Raises
    ------
    NodesFailedError
        If a node does not answer a query.
    EngineError
        If the penalty is no finite scalar, or its gradient overflows the clients' numbers.
    """
    weight = method.penalty_weight_at(server_round)
    weights = domains.example_weights()
    losses, terms = _penalty_terms(method, server_round, weight, domains, report)
    # With Mixup a gradient over all examples is another draw.
    takes_steps = method.client_update != "gradient" and method.mixup_alpha is None
    return TrainingTerms(
        weights=weights,
        loss_weights={name: own + losses.get(name, 0.0) for name, own in weights.items()},
        terms=(*terms, *_local_terms(method, domains)),
        l2=method.l2,
        scale=1 / weight if method.rescale_loss and weight > 1.0 else 1.0,
        replies_gradient=method.client_update == "gradient",
        reports_drift=method.report_drift and takes_steps,
        reports_loss_after=method.reports_loss_after,
        examples=method.examples_per_round,
        mixup=method.mixup_alpha,
    )


def _penalty_terms(
    method: AlignmentMethod,
    server_round: int,
    weight: float,
    domains: Domains,
    report: dict[str, float],
) -> tuple[dict[str, float], list[Term]]:
    """Return the penalty's gradient: by the domains' losses, and by other statistics."""
    if weight == 0.0 and not method.always_measures:
        return {}, []
    if len(domains) < method.min_domains:
        method.warn_of_one_domain(domains.names)
        return {}, []
    name = type(method).__name__
    with user_code(f"{name}.penalty", NodesFailedError):
        penalty = check_penalty(name, server_round, method.penalty(domains))
    if penalty.grad_fn is None:
        method.warn_of_no_gradient()
        return {}, []
    factor = len(domains) if method.sum_over_domains else 1
    report.update(penalty=float(penalty.detach()) * factor, penalty_weight=weight)
    quadratic = method.client_update == "quadratic"
    with user_code(f"the gradient of {name}.penalty", NodesFailedError):
        found = domains.terms(weight * factor * penalty, quadratic=quadratic)
    check_terms(name, server_round, *found, domains.dtype)
    if method.stale_moments:
        _remember(method, server_round, domains, report)
    return found


def _remember(
    method: AlignmentMethod, server_round: int, domains: Domains, report: dict[str, float]
) -> None:
    method.stored.update(domains.remember(server_round))
    ages = [server_round - s["server_round"] for s in method.stored.values()]
    report.update(
        stale_domains=float(sum(age > 0 for age in ages)), oldest_moments=float(max(ages))
    )


def _local_terms(method: AlignmentMethod, domains: Domains) -> list[Term]:
    weights = domains.example_weights()
    with user_code(f"{type(method).__name__}.local_terms"):
        own_terms = method.local_terms()
    return [
        Term(
            statistic,
            {n: torch.tensor(weight * own, dtype=torch.float64) for n, own in weights.items()},
        )
        for statistic, weight in own_terms
    ]
