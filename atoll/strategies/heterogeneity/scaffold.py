"""SCAFFOLD: control variates against the drift of clients (Karimireddy et al., 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from atoll.clients.ranges import Rate
from atoll.clients.training.terms.drift_correction import ControlVariates
from atoll.strategies.heterogeneity.float_arrays import (
    combined,
    extrapolated,
    floats,
    weight_keys,
    zeros_of,
)
from atoll.strategies.heterogeneity.term_strategy import TermStrategy
from atoll.strategies.strategy_fields import check_argument


class SCAFFOLD(TermStrategy):
    """SCAFFOLD (Karimireddy et al., 2020, arXiv 1910.06378, algorithm 1).

    The server sends the model x and a control variate c. A client steps along g - c_i + c, and
    replies with its model and the change of c_i, which stays with its node. With S clients of N:
    x moves by ``server_learning_rate`` times the mean of the clients' moves, c by S/N times the
    mean of their changes. Clients count the same, whatever their number of examples.

    Parameters
    ----------
    option : int
        The update of c_i. 2: c_i - c + (x - y_i)/(steps lr). 1: the gradient at x over all the
        client's examples.
    server_learning_rate : float
        The step of the server; 1 takes the clients' mean.
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As for Flower's ``FedAvg``.

    Raises
    ------
    InvalidExperimentError
        If an argument is out of range; where it is run, if clients have momentum or an adaptive
        optimiser.

    Examples
    --------
    >>> from atoll.strategies import SCAFFOLD
    >>> SCAFFOLD(server_learning_rate=0.5).server_learning_rate
    0.5
    """

    term_name: ClassVar[str] = "scaffold"

    def __init__(
        self,
        option: Literal[1, 2] = 2,
        server_learning_rate: float = 1.0,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        check_argument("option", option, Literal[1, 2])
        check_argument("server_learning_rate", server_learning_rate, Rate)
        self.option = option
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            weighted_by_key="clients",
        )
        self.server_learning_rate = server_learning_rate
        self.control = ArrayRecord()

    def term(self) -> ControlVariates:
        """Return the clients' part."""
        return ControlVariates(option=self.option)

    def broadcast(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the control variate, zeros at first."""
        if not self.control:
            self.control = zeros_of(arrays, weight_keys(arrays))
        return self.control

    def next_model(
        self,
        before: ArrayRecord,
        mean: ArrayRecord,
        beside: ArrayRecord,
        metrics: MetricRecord,
        weight: float,
    ) -> ArrayRecord:
        """Return the next model; the control variate moves too."""
        share = weight / self._num_nodes
        self.control = combined(
            self.control,
            self.control,
            lambda key: np.asarray(floats(self.control[key]) + share * floats(beside[key])),
        )
        return extrapolated(before, mean, self.server_learning_rate)
