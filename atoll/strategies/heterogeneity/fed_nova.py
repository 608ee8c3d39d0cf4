"""FedNova: clients' moves normalised by their steps (Wang et al., 2020)."""

from __future__ import annotations

from typing import ClassVar

from flwr.app import ArrayRecord, MetricRecord

from atoll.clients.training.terms.reported_updates import NormalizedUpdates
from atoll.strategies.heterogeneity.float_arrays import extrapolated
from atoll.strategies.heterogeneity.term_strategy import TermStrategy


class FedNova(TermStrategy):
    """FedNova (Wang et al., 2020, arXiv 2007.07481, eq. 14 to 16).

    With p_i a client's share of the examples and a_i the weights of its steps' gradients in its
    move, the model x becomes x - tau_eff sum_i p_i (x - y_i)/||a_i||_1. Without momentum and
    FedProx's term ||a_i||_1 is the number of steps. tau_eff is sum_i p_i ||a_i||_1; with FedProx's
    term, as in the released code, sum_i p_i steps_i.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As for Flower's ``FedAvg``.

    Raises
    ------
    InvalidExperimentError
        Where it is run, if clients have an adaptive optimiser.

    Examples
    --------
    >>> from atoll.strategies import FedNova
    >>> FedNova(fraction_train=0.5).fraction_train
    0.5
    """

    term_name: ClassVar[str] = "fednova"

    def __init__(
        self,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            weighted_by_key="normalized-examples",
        )

    def term(self) -> NormalizedUpdates:
        """Return the clients' part."""
        return NormalizedUpdates()

    def next_model(
        self,
        before: ArrayRecord,
        mean: ArrayRecord,
        beside: ArrayRecord,
        metrics: MetricRecord,
        weight: float,
    ) -> ArrayRecord:
        """Return the model moved by the normalised mean of the clients' moves.

        With replies weighed by w_i = n_i/a_i, the means of a_i and of a_i t_i are n/w and
        n tau_eff/w, and sum_i p_i (y_i - x)/a_i is w/n (mean - x).
        """
        normalizer = float(metrics["normalizer"])  # type: ignore[arg-type]
        scaled = float(metrics["scaled-steps"])  # type: ignore[arg-type]
        return extrapolated(before, mean, scaled / normalizer**2)
