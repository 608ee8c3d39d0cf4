"""MOON: features near the global model's and away from the client's earlier ones."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.clients.ranges import Positive
from atoll.clients.training.objective.term import (
    NO_REPLY,
    LocalEnd,
    ObjectiveTerm,
    TermBatch,
    TermContext,
    TermReply,
    TermRun,
)
from atoll.clients.training.terms.earlier_models import FrozenModel, state_of


class ModelContrast(ObjectiveTerm):
    """MOON's model-contrastive loss (Li et al., 2021, eq. 3), on the head's inputs z.

    -log e^(s(z, z_global)/T) / (e^(s(z, z_global)/T) + e^(s(z, z_previous)/T)), where s is the
    cosine similarity, z_global are the features of the model that was sent, and z_previous those
    of the client's own model of its last round. In its first round a client has no such term.

    Attributes
    ----------
    weight : float
        mu: what the loss is multiplied by; the paper tries 0.1, 1, 5 and 10.
    temperature : float
        T.
    """

    has_state: ClassVar[bool] = True

    temperature: Positive = 0.5

    def begin(self, context: TermContext) -> TermRun:
        """Return the loss, and keep the trained model at the end."""
        before = context.memory.read(context.start[0].device)

        def end(done: LocalEnd) -> TermReply:
            if done.steps:
                context.memory.write(state_of(context.model))
            return NO_REPLY

        if not before:
            return TermRun(end=end)
        of_server = FrozenModel(context.model, context.head)
        previous = FrozenModel(context.model, context.head, before)

        def loss(batch: TermBatch) -> Tensor:
            assert batch.features is not None
            own = batch.features.flatten(1)
            others = (of_server.features(batch.inputs), previous.features(batch.inputs))
            similar = [F.cosine_similarity(own, other.flatten(1), dim=-1) for other in others]
            scores = torch.stack(similar, -1) / self.temperature
            return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.int64))

        return TermRun(loss=loss, needs_features=True, end=end)
