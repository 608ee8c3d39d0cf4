"""FedRep: the local parameters are trained first, then the shared ones."""

from __future__ import annotations

from typing import ClassVar

from atoll.clients.personal.method import PersonalClient, PersonalMethod
from atoll.clients.personal.phases import trained_only
from atoll.clients.ranges import Epochs
from atoll.clients.settings import ClientSettings
from atoll.clients.training.local_training import TrainingResult, train


class FedRep(PersonalMethod):
    """FedRep: passes that train the head with the body held, then passes that train the body.

    The head is what ``client.local`` names (Collins et al., 2021, arXiv 2102.07078, algorithm 1).
    Each phase has an optimiser of its own.

    Attributes
    ----------
    head_epochs : int
        Passes in which the local parameters are trained.
    body_epochs : int
        Passes in which the shared parameters are trained.
    """

    changes_training: ClassVar[bool] = True
    takes_local: ClassVar[bool | None] = True
    own_steps: ClassVar[bool] = True

    head_epochs: Epochs = 10
    body_epochs: Epochs = 1

    def check(self, settings: ClientSettings) -> None:
        """Refuse numbers of steps or passes that this method has in its own settings."""
        for key in ("epochs", "steps"):
            value = getattr(settings, key)
            if value is not None:
                raise ValueError(
                    f"client.{key} = {value}: it trains in two phases; expected "
                    "client.personal.head_epochs and body_epochs in its place"
                )

    def train(self, client: PersonalClient) -> TrainingResult:
        """Train the local parameters, then the shared ones."""
        generator = client.generator()
        shared = client.parameters.keys() - client.local
        phases = ((client.local, self.head_epochs), (shared, self.body_epochs))
        total, examples, steps = 0.0, 0, 0
        for names, epochs in phases:
            settings = client.settings.model_copy(update={"epochs": epochs})
            with trained_only(client, names):
                done = train(
                    client.model,
                    client.inputs,
                    client.labels,
                    settings,
                    learning_rate=client.learning_rate,
                    generator=generator,
                    task=client.task,
                )
            total, examples = total + done.loss * epochs, done.examples
            steps += done.steps
        return TrainingResult(total / (self.head_epochs + self.body_epochs), examples, steps)
