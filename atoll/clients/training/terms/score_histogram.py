"""Histograms of examples' scores, which clients send for the federation's quantile of them."""

from __future__ import annotations

from typing import ClassVar

import torch

from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import (
    NO_REPLY,
    LocalEnd,
    ObjectiveTerm,
    TermContext,
    TermReply,
    TermRun,
)
from atoll.clients.training.score_bins import BINS, bins_of

# What the server sends and gets, and what a node keeps once it has sent its own.
HISTOGRAM, REPORTED = "histogram", "reported"


class ScoreHistogram(ObjectiveTerm):
    """The report of how many of a client's mean scores are in each bin, once it has scored them.

    It adds nothing to the loss. A client reports in the last round in which it scores its examples,
    and zeros in every other. The reply is divided by the client's number of examples, which is its
    weight: the weighted mean of replies is the sum of the histograms by that of the weights.
    """

    of_strategy: ClassVar[str | None] = "DataDiet"
    is_linear: ClassVar[bool] = True

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse clients that do not select by a threshold of the federation's."""
        if settings.selection is None:
            raise ValueError("clients score no examples; expected a table [client.selection]")
        if settings.selection.over != "federation":
            raise ValueError(
                f"client.selection.over = {settings.selection.over!r}: each client has a threshold "
                "of its own; expected 'federation'"
            )

    def begin(self, context: TermContext) -> TermRun:
        """Return the report."""
        settings, kept = context.settings.selection, context.memory.read()

        def end(done: LocalEnd) -> TermReply:
            if settings is None or not kept or REPORTED in kept or not done.examples:
                return NO_REPLY
            if int(kept["rounds"]) < settings.score_rounds:
                return NO_REPLY
            counts = torch.bincount(bins_of(kept["scores"], settings), minlength=BINS)
            context.memory.write({**kept, REPORTED: torch.tensor(1)})
            return TermReply({HISTOGRAM: counts.double() / done.examples})

        return TermRun(end=end)
