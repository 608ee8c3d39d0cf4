"""Clients that leave a federation: their answer to the message that asks them for gradient ascent.

The message has the model from which they ascend, and a config with the ascent's settings, so that
a strategy can ask any client of a federation. What they train with otherwise (terms of the
objective, schedules) has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict

from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.training_messages import arrays_of, config_of, partition_of
from atoll.clients.models.model_building import build_model
from atoll.clients.ranges import BatchSize, Decay, Epochs, Norm, Number, Positive, Rate
from atoll.clients.sections import Section
from atoll.clients.settings import ClientSettings
from atoll.clients.training.ascent import RANDOM_MODELS, ascend, ball_radius
from atoll.clients.training.example_mods import changed_examples, has_example_mods
from atoll.randomness import derive_seed, seed_everything

# The type of the message is "train.unlearn".
ASCENT = "unlearn"
# Keys of its config begin so.
PREFIX = "ascent-"


class Ascent(Section):
    """Settings of a leaving client's ascent, as its message has them.

    Attributes
    ----------
    epochs : int
        Passes over the client's examples, at most.
    learning_rate, momentum : float
        Of SGD, uphill.
    gradient_clip : float
        The largest norm of a step's gradient.
    batch_size : int
        Examples a step.
    stop : float
        The task's main metric at which ascent ends.
    is_projected : bool
        Whether every step is projected onto a ball around the model that was sent.
    radius : float or None
        The ball's; None for that of :func:`~atoll.clients.training.ascent.ball_radius`.

    Examples
    --------
    >>> from atoll.clients.apps.leaving_clients import Ascent
    >>> ascent = Ascent(batch_size=20, stop=0.12, is_projected=True)
    >>> Ascent.from_config(ascent.to_config()) == ascent
    True
    """

    epochs: Epochs = 5
    learning_rate: Rate = 0.01
    momentum: Decay = 0.9
    gradient_clip: Norm = 5.0
    batch_size: BatchSize
    stop: Number
    is_projected: bool
    radius: Positive | None = None

    def to_config(self) -> dict[str, int | float | bool]:
        """Return the settings as entries of a message's config."""
        return {PREFIX + key: value for key, value in self.model_dump(exclude_none=True).items()}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Ascent:
        """Return the settings that a message's config has."""
        own = {k.removeprefix(PREFIX): v for k, v in config.items() if k.startswith(PREFIX)}
        return cls.model_validate(own)


class LeavingClients:
    """Clients of a process, as far as they leave.

    Parameters
    ----------
    resources : ClientResources
        Their data and model.
    """

    def __init__(self, resources: ClientResources) -> None:
        self._resources = resources

    def ascend(self, message: Message, context: Context) -> Message:
        """Answer a message that asks for ascent: the model to which it leads, and its figures."""
        resources, partition, config = self._resources, partition_of(context), config_of(message)
        resources.arrays.load(arrays_of(message))
        asked = Ascent.from_config(config)
        seed = resources.seed(config, ASCENT, partition)
        seed_everything(seed)
        inputs, labels = resources.training_examples(partition, seed)
        if has_example_mods():
            inputs, labels = changed_examples(inputs[torch.arange(len(labels))], labels)
        radius = None
        if asked.is_projected:
            radius = asked.radius or self._radius()
        done = ascend(
            resources.model,
            inputs,
            labels,
            self._settings(asked),
            task=resources.dataset.task,
            generator=torch.Generator().manual_seed(seed),
            stop=asked.stop,
            radius=radius,
        )
        metrics: dict[str, Any] = {
            "num-examples": done.examples,
            "loss": done.loss,
            "ascent-steps": done.steps,
            "ascent-distance": done.distance,
            resources.dataset.task.metrics[0]: done.metric,
        }
        if radius is not None:
            metrics["ascent-radius"] = radius
        arrays = resources.arrays.read()
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    def _settings(self, asked: Ascent) -> ClientSettings:
        return ClientSettings(
            optimizer="sgd",
            learning_rate=asked.learning_rate,
            momentum=asked.momentum,
            gradient_clip=asked.gradient_clip,
            batch_size=asked.batch_size,
            epochs=asked.epochs,
            loss=self._resources.spec.client.loss,
        )

    def _radius(self) -> float:
        """Return the ball's radius around the model that is loaded, from random models."""
        resources = self._resources
        spec, dataset = resources.spec, resources.dataset
        reference = [p.detach().cpu() for p in resources.model.parameters() if p.requires_grad]
        others = []
        for number in range(RANDOM_MODELS):
            seed = derive_seed(spec.seed, "random model", number)
            random = build_model(spec.model, dataset.inputs, dataset.task, seed)
            others.append([p.detach() for p in random.parameters() if p.requires_grad])
        return ball_radius(reference, others)
