"""Ditto: a model of the client's own, held near the global one."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from atoll.clients.personal.method import PersonalClient, PersonalMethod
from atoll.clients.ranges import Epochs, Weight
from atoll.clients.training.local_training import TrainingResult, train
from atoll.clients.training.step_mods import without_step_mods


class Ditto(PersonalMethod):
    """Ditto: a model v of the client's own, which minimises its loss + penalty/2 ||v - w||^2.

    w is the global model. What is sent is as without it: v does not influence w (Li et al., 2021,
    arXiv 2012.04221, algorithm 1). v begins as the global model of the client's first round.

    Attributes
    ----------
    penalty : float
        lambda: 0 for a model trained alone, the larger the nearer to the global one.
    epochs : int or None
        Passes for v; by default those of local training.
    """

    changes_training: ClassVar[bool] = True
    takes_local: ClassVar[bool | None] = False

    penalty: Weight = 1.0
    epochs: Annotated[Epochs | None, Field(examples=[2])] = None

    def train(self, client: PersonalClient) -> TrainingResult:
        """Train the global model as ever, and the client's own from where it was."""
        start = client.copies()
        result = client.train_plainly()
        sent = client.copies()
        client.put(client.memory.read() or start)
        self._train_own(client, start)
        client.memory.write(client.copies())
        client.put(sent)
        return result

    def _train_own(self, client: PersonalClient, centre: dict[str, Tensor]) -> None:
        settings = client.settings
        if self.epochs is not None:
            settings = settings.model_copy(update={"epochs": self.epochs, "steps": None})
        parameters = client.parameters
        model, inputs, labels = client.model, client.inputs, client.labels

        def objective(chosen: Tensor) -> tuple[Tensor, Tensor]:
            loss = client.mean_loss(model(inputs[chosen]), labels[chosen])
            distance = torch.stack(
                [(p - centre[name]).square().sum() for name, p in parameters.items()]
            ).sum()
            return loss + self.penalty / 2 * distance, loss

        with without_step_mods():
            train(
                model,
                inputs,
                labels,
                settings,
                learning_rate=client.learning_rate,
                generator=client.generator(),
                task=client.task,
                proximal_mu=0.0,
                objective=objective,
            )

    def personalise(self, client: PersonalClient) -> None:
        """Put the client's own model in the place of the global one."""
        client.put(client.memory.read())
