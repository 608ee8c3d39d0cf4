"""FedExP: a server step that grows with the clients' disagreement (Jhunjhunwala et al., 2023)."""

from __future__ import annotations

from typing import ClassVar

from flwr.app import ArrayRecord, MetricRecord

from atoll.clients.ranges import Weight
from atoll.clients.training.terms.reported_updates import ReportedNorms
from atoll.strategies.heterogeneity.float_arrays import (
    extrapolated,
    squared_distance,
    weight_keys,
)
from atoll.strategies.heterogeneity.term_strategy import TermStrategy
from atoll.strategies.strategy_fields import check_argument


class FedExP(TermStrategy):
    """FedExP (Jhunjhunwala et al., 2023, arXiv 2301.09604, eq. 7).

    The server's step is max(1, sum_i p_i ||x - y_i||^2 / (2 (||x - mean||^2 + epsilon))), with p_i
    the clients' shares of the examples.

    Parameters
    ----------
    epsilon : float
        Added to the squared norm of the mean move; the paper uses 0.001.
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As for Flower's ``FedAvg``.

    Raises
    ------
    InvalidExperimentError
        If an argument is out of range.

    Examples
    --------
    >>> from atoll.strategies import FedExP
    >>> FedExP(epsilon=0.01).epsilon
    0.01
    """

    term_name: ClassVar[str] = "fedexp"

    def __init__(
        self,
        epsilon: float = 0.001,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        check_argument("epsilon", epsilon, Weight)
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
        )
        self.epsilon = epsilon

    def term(self) -> ReportedNorms:
        """Return the clients' part."""
        return ReportedNorms()

    def next_model(
        self,
        before: ArrayRecord,
        mean: ArrayRecord,
        beside: ArrayRecord,
        metrics: MetricRecord,
        weight: float,
    ) -> ArrayRecord:
        """Return the model moved by the step times the clients' mean move."""
        own = float(metrics["squared-norm"])  # type: ignore[arg-type]
        of_mean = squared_distance(before, mean, weight_keys(before))
        denominator = 2.0 * (of_mean + self.epsilon)
        step = max(1.0, own / denominator) if denominator else 1.0
        metrics["server-step"] = step
        return extrapolated(before, mean, step)
