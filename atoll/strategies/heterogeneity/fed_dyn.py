"""FedDyn: dynamic regularisation of clients' objectives (Acar et al., 2021)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from atoll.clients.ranges import Positive
from atoll.clients.training.terms.drift_correction import DynamicRegularizer
from atoll.strategies.heterogeneity.float_arrays import combined, floats, weight_keys, zeros_of
from atoll.strategies.heterogeneity.term_strategy import TermStrategy
from atoll.strategies.strategy_fields import check_argument


class FedDyn(TermStrategy):
    """FedDyn (Acar et al., 2021, arXiv 2111.04263, algorithm 1).

    A client adds -<g_i, w> + alpha/2 ||w - w_t||^2 to its loss; g_i stays with its node and
    becomes g_i - alpha (w_i - w_t). With m clients in all, the server keeps
    h = h - alpha/m sum_i (w_i - w_t), and the next model is the clients' mean minus h/alpha.
    Clients count the same, whatever their number of examples.

    Parameters
    ----------
    alpha : float
        The strength of the regulariser; the paper tries 0.001 to 0.1.
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As for Flower's ``FedAvg``.

    Raises
    ------
    InvalidExperimentError
        If an argument is out of range.

    Examples
    --------
    >>> from atoll.strategies import FedDyn
    >>> FedDyn(alpha=0.1).alpha
    0.1
    """

    term_name: ClassVar[str] = "feddyn"

    def __init__(
        self,
        alpha: float = 0.01,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        check_argument("alpha", alpha, Positive)
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            weighted_by_key="clients",
        )
        self.alpha = alpha
        # h / alpha, which is what the model is corrected by.
        self.correction = ArrayRecord()

    def term(self) -> DynamicRegularizer:
        """Return the clients' part."""
        return DynamicRegularizer(alpha=self.alpha)

    def next_model(
        self,
        before: ArrayRecord,
        mean: ArrayRecord,
        beside: ArrayRecord,
        metrics: MetricRecord,
        weight: float,
    ) -> ArrayRecord:
        """Return the clients' mean minus h/alpha."""
        keys = weight_keys(before)
        if not self.correction:
            self.correction = zeros_of(before, keys)
        share = weight / self._num_nodes
        kept = self.correction
        self.correction = combined(
            kept,
            keys,
            lambda k: np.asarray(floats(kept[k]) - share * (floats(mean[k]) - floats(before[k]))),
        )
        correction = self.correction
        return combined(mean, keys, lambda k: np.asarray(floats(mean[k]) - floats(correction[k])))
