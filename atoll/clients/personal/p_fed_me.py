"""pFedMe: personal models as the Moreau envelope's minimisers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from atoll.clients.personal.method import PersonalClient, PersonalMethod
from atoll.clients.personal.plain_steps import check_plain_steps
from atoll.clients.ranges import Positive, Rate, Repetitions
from atoll.clients.settings import ClientSettings
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.local_training import TrainingResult, batches


class PFedMe(PersonalMethod):
    """pFedMe: for each batch a personal model t near w, then a step of w towards it.

    t takes ``inner_steps`` steps on loss(t) + penalty/2 ||t - w||^2 with ``inner_rate``; then
    w becomes w - lr penalty (w - t), and w is sent (Dinh et al., 2020, arXiv 2006.08848,
    algorithm 1). The last t is the client's own model. The server's beta is FedAvgM's
    ``server_learning_rate`` with a momentum of 0.

    Attributes
    ----------
    penalty : float
        lambda: the pull of t to w.
    inner_steps : int
        K: steps of t a batch.
    inner_rate : float
        Learning rate of t.
    """

    changes_training: ClassVar[bool] = True
    takes_local: ClassVar[bool | None] = False
    own_steps: ClassVar[bool] = True

    penalty: Positive = 15.0
    inner_steps: Repetitions = 5
    inner_rate: Rate = 0.09

    def check(self, settings: ClientSettings) -> None:
        """Refuse what its steps do not do."""
        check_plain_steps(settings, "pFedMe")

    def train(self, client: PersonalClient) -> TrainingResult:
        """Train w and t; w is left in the model, t is kept."""
        model = client.model.train()
        parameters: list[Tensor] = list(client.parameters.values())
        w = [p.detach().clone() for p in parameters]
        examples = len(client.labels)
        total, seen, steps = torch.zeros((), device=client.labels.device), 0, 0
        for chosen in batches(examples, client.settings, client.generator()):
            first: Tensor | None = None
            for _ in range(self.inner_steps):
                loss = client.mean_loss(model(client.inputs[chosen]), client.labels[chosen])
                gradients = gradients_of(loss, parameters)
                first = loss.detach() if first is None else first
                with torch.no_grad():
                    pull = torch._foreach_sub(parameters, tuple(w))
                    change = torch._foreach_add(gradients, pull, alpha=self.penalty)
                    torch._foreach_add_(parameters, change, alpha=-self.inner_rate)
            with torch.no_grad():
                apart = torch._foreach_sub(w, tuple(parameters))
                torch._foreach_add_(w, apart, alpha=-client.learning_rate * self.penalty)
            assert first is not None
            total, seen, steps = total + first * len(chosen), seen + len(chosen), steps + 1
        client.memory.write(client.copies())
        client.put(dict(zip(client.parameters, w, strict=True)))
        return TrainingResult(float(total) / max(1, seen), examples, steps)

    def personalise(self, client: PersonalClient) -> None:
        """Put the last t in the place of the global model."""
        client.put(client.memory.read())
