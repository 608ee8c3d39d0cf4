"""FedAvg with local fine-tuning: the baseline of personal methods."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atoll.clients.personal.local_names import matching
from atoll.clients.personal.method import PersonalClient, PersonalMethod
from atoll.clients.personal.phases import trained_only
from atoll.clients.ranges import Epochs, Rate
from atoll.clients.training.local_training import train
from atoll.errors import InvalidExperimentError


class FineTuning(PersonalMethod):
    """The global model, trained on the client's examples before it is evaluated; nothing is kept.

    Training is FedAvg's (Wang et al., 2019, arXiv 1910.10252; Yu et al., 2020, arXiv 2002.04758).

    Attributes
    ----------
    epochs : int
        Passes over the client's training examples.
    learning_rate : float or None
        By default that of the round.
    trained : tuple[str, ...]
        What is trained, as in ``client.local``; by default everything.
    """

    epochs: Epochs = 1
    learning_rate: Annotated[Rate | None, Field(examples=[0.01])] = None
    trained: Annotated[tuple[str, ...], Field(strict=False, examples=[["head"]])] = ()

    def personalise(self, client: PersonalClient) -> None:
        """Train the global model."""
        names = {name for entry in self.trained for name in matching(client.model, entry)}
        if self.trained and not names & client.parameters.keys():
            raise InvalidExperimentError(
                f"client.personal.trained = {list(self.trained)!r}: matches no trained parameter"
            )
        settings = client.settings.model_copy(update={"epochs": self.epochs, "steps": None})
        with trained_only(client, names or set(client.parameters)):
            train(
                client.model,
                client.inputs,
                client.labels,
                settings,
                learning_rate=self.learning_rate or client.learning_rate,
                generator=client.generator(),
                task=client.task,
                proximal_mu=0.0,
            )
