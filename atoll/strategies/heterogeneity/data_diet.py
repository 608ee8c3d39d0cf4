"""Data Diet over a federation: a quantile of all clients' scores, from the sum of histograms."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from atoll.clients.training.score_bins import BINS
from atoll.clients.training.terms.score_histogram import HISTOGRAM, ScoreHistogram
from atoll.flower.arrays import array_record, to_array
from atoll.strategies.heterogeneity.float_arrays import floats
from atoll.strategies.heterogeneity.term_strategy import TermStrategy


class DataDiet(TermStrategy):
    """FedAvg that leaves out the federation's easiest examples (Paul et al., 2021).

    Clients score their examples as ``[client.selection]`` says, with ``over = "federation"``. In
    its last round of scoring a client sends a histogram of its mean scores beside its model. The
    server adds the histograms up and sends the sum, from which each client finds the lowest bin
    that it trains on: the highest one below which lies at most the share ``drop`` of all scores.
    Replies are averaged, so the strategy sees the sum of a round's histograms, no client's own.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As for Flower's ``FedAvg``.

    Raises
    ------
    InvalidExperimentError
        Where it is run, if clients have no selection over the federation.

    Examples
    --------
    >>> from atoll.strategies import DataDiet
    >>> DataDiet(fraction_train=0.5).counts.sum()  # nobody has scored anything yet
    np.float64(0.0)
    """

    term_name: ClassVar[str] = "selection"

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
        )
        # How many examples are in each bin, shape (BINS,).
        self.counts = np.zeros(BINS, np.float64)

    def term(self) -> ScoreHistogram:
        """Return the clients' part."""
        return ScoreHistogram()

    def broadcast(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the federation's histogram so far."""
        return array_record({HISTOGRAM: to_array(self.counts.copy())})

    def next_model(
        self,
        before: ArrayRecord,
        mean: ArrayRecord,
        beside: ArrayRecord,
        metrics: MetricRecord,
        weight: float,
    ) -> ArrayRecord:
        """Return the mean; the histograms are added up."""
        # Clients divide by their weights: the sum is of whole numbers but for rounding.
        self.counts += np.rint(weight * floats(beside[HISTOGRAM]))
        metrics["scored-examples"] = float(self.counts.sum())
        return mean
