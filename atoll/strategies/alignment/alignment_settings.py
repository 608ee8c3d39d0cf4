"""Settings of the strategies that align domains: the arguments that all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flwr.serverapp.strategy import FedAvg

from atoll.errors import InvalidExperimentError
from atoll.strategies.alignment.moments.domain_weights import Weighting
from atoll.strategies.strategy_fields import (
    Count,
    Fraction,
    NonNegative,
    NonNegativeCount,
    Positive,
    check_fields,
)


@dataclass(kw_only=True, eq=False)
class AlignmentSettings(FedAvg):
    """Arguments of an alignment strategy, checked, and their values in each round.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As Flower's FedAvg.
    domain_weights : "uniform" or "examples"
        Whether domains count the same (as with DomainBed's equal batches), or by their examples
        (as FedAvg).
    penalty_weight : float
        The weight of the penalty; at 0 there is none in any round, and the strategy is FedAvg
        (with ``domain_weights``).
    anneal_rounds : int
        Rounds before the penalty has that weight.
    initial_penalty_weight : float
        Its weight until then.
    reset_optimizer : bool
        Whether the server's optimiser is reset when the weight changes.
    rescale_loss : bool
        Whether the whole loss is divided by the penalty's weight where that is over 1.
    sum_over_domains : bool
        Whether the penalty is a sum over domains in place of their mean.
    l2 : float
        The weight of the squared norm of all trainable parameters in the loss.
    client_update : "cotangent", "quadratic" or "gradient"
        Task of the clients: train with fixed cotangents; train with the squared distance of their
        moments to the target, evaluated at every step; or reply with the gradient alone, which
        makes a round one exact step of the centralised method.
    server_optimizer : "average", "sgd" or "adam"
        Use of the mean of replies: the server takes it for the new model, or takes a step
        along the gradient (or along the clients' mean change).
    server_learning_rate, server_weight_decay : float
        Learning rate, above 0, and weight decay, at least 0, of ``sgd`` and ``adam``.
    examples_per_round : int, optional
        The number of examples that each client draws for a round; by default it uses all.
    stale_moments : bool
        Whether domains without a client in the cohort take part in the penalty with their last
        moments.
    report_drift : bool
        Whether clients that take several steps measure how far these left the exact gradient
        (one more pass over their examples).
    diagnostics_every : int
        Rounds between measurements of the distances of domains' gradients and Hessians; 0 for
        none.

    Raises
    ------
    InvalidExperimentError
        If an argument is out of its range, or does not go with another.
    """

    fraction_train: Fraction = 1.0
    fraction_evaluate: Fraction = 1.0
    min_train_nodes: NonNegativeCount = 1
    min_evaluate_nodes: NonNegativeCount = 1
    min_available_nodes: Count = 1
    domain_weights: Weighting = "uniform"
    penalty_weight: NonNegative = 1.0
    anneal_rounds: NonNegativeCount = 0
    initial_penalty_weight: NonNegative = 0.0
    reset_optimizer: bool = True
    rescale_loss: bool = False
    sum_over_domains: bool = False
    l2: NonNegative = 0.0
    client_update: Literal["cotangent", "quadratic", "gradient"] = "cotangent"
    server_optimizer: Literal["average", "sgd", "adam"] = "average"
    server_learning_rate: Positive | None = None
    server_weight_decay: NonNegative = 0.0
    examples_per_round: Count | None = None
    stale_moments: bool = False
    report_drift: bool = True
    diagnostics_every: NonNegativeCount = 0

    def __post_init__(self) -> None:
        check_fields(self)
        super().__init__(
            self.fraction_train,
            self.fraction_evaluate,
            self.min_train_nodes,
            self.min_evaluate_nodes,
            self.min_available_nodes,
            weighted_by_key="weight",
        )
        steps = self.server_optimizer != "average"
        if self.client_update == "gradient" and not steps:
            raise InvalidExperimentError(
                f"strategy.server_optimizer = {self.server_optimizer!r}: expected 'sgd' or 'adam' "
                "with strategy.client_update = 'gradient'"
            )
        if steps and self.server_learning_rate is None:
            raise InvalidExperimentError(
                "strategy.server_learning_rate is not set; expected a number above 0 with "
                f"strategy.server_optimizer = {self.server_optimizer!r}"
            )

    def penalty_weight_at(self, server_round: int) -> float:
        """Return the penalty's weight in a round, from 1."""
        if server_round <= self.anneal_rounds and self.penalty_weight > 0.0:
            return self.initial_penalty_weight
        return self.penalty_weight

    def server_learning_rate_at(self, server_round: int) -> float:
        """Return the server's learning rate in a round, from 1; 0 where it takes no steps."""
        return self.server_learning_rate or 0.0
