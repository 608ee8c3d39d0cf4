"""Class fishing: one class's examples out of a large batch, or a sum of clients (Wen et al., 2022).

The server sends a model of :mod:`atoll.clients.models.malicious.fishing_head`. The bias's gradient
says how many examples of the class there are, and the rest of the update is theirs: where there is
one, it is inverted as that of a batch of one. Secure aggregation does not hinder it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction, ignore_progress
from atoll.attacks.methods.matching.inverting_gradients import InvertingGradients
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.errors import AttackError


class ClassFishing(InvertingGradients):
    """Inverting Gradients on the examples of the class that the model's head fishes for.

    The others are blank, and ``found`` says which. The settings are those of
    ``inverting-gradients``.
    """

    needs = frozenset({Capability.TRAINING, Capability.CHOOSES_MODEL})

    def check(self, observation: Observation) -> None:
        """Refuse a model without a fishing head, and a client that takes several steps."""
        super().check(observation)
        target_class(observation)
        training = observation.training
        if training is not None and training.steps > 1 and not training.replies_gradient:
            raise AttackError(
                f"{observation.name}: takes {training.steps} steps, and the head fishes in the "
                "first alone; expected one step"
            )

    def run(
        self,
        observations: Sequence[Observation],
        *,
        seed: int = 0,
        progress: Progress = ignore_progress,
    ) -> list[Reconstruction]:
        """Attack one observation after another: each has its own number of fished examples."""
        results = []
        for place, observation in enumerate(observations):

            def report(done: int, total: int, place: int = place) -> None:
                progress(place * total + done, len(observations) * total)

            fished = fished_only(observation)
            found = super().run([fished], seed=seed, progress=report) if fished else []
            results.append(_among(observation, found[0] if found else None))
        return results

    def _labels_of(self, observation: Observation) -> Tensor:
        labels: Tensor = torch.full(
            (observation.num_images,), target_class(observation), device=observation.model.device
        )
        return labels


def target_class(observation: Observation) -> int:
    """Return the class whose examples a model's head lets through.

    Raises
    ------
    AttackError
        If it is no fishing head.
    """
    model = observation.model
    at_weight, at_bias = model.head_index()
    rows = model.parameters[model.names[at_weight]].abs().sum(1).nonzero().flatten()
    if at_bias is None or len(rows) != 1:
        raise AttackError(
            "the model's head does not fish for a class; expected a federation with model.name = "
            "'fishing'"
        )
    return int(rows[0])


def fished_only(observation: Observation) -> Observation | None:
    """Return the observation of the class's examples alone; None if there are none.

    The head's gradient of other classes, which all examples have, is left out: of the update, and
    of what it is compared with.
    """
    target = target_class(observation)
    at_weight, at_bias = observation.model.head_index()
    assert at_bias is not None
    count = round(-float(observation.target[at_bias][target]) * observation.num_images)
    if count < 1:
        return None
    scale = observation.num_images / count

    def masked(update: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept = []
        for place, tensor in enumerate(update):
            if place in (at_weight, at_bias):
                row = torch.arange(len(tensor), device=tensor.device) == target
                tensor = tensor * row.view(-1, *[1] * (tensor.dim() - 1))
            kept.append(tensor)
        return tuple(kept)

    return replace(
        observation,
        num_examples=count,
        target=tuple(scale * tensor for tensor in masked(observation.target)),
        mimic=masked,
        labels=None,
    )


def _among(observation: Observation, found: Reconstruction | None) -> Reconstruction:
    """Return as many images as the update depends on; those that were not fished are grey."""
    count = observation.num_images
    images = torch.full((count, *observation.space.shape), 0.5)
    labels, is_found = torch.full((count,), -1), torch.zeros(count, dtype=torch.bool)
    if found is None:
        return Reconstruction(images, labels, "inferred", found=is_found)
    fished = len(found.examples)
    images[:fished], labels[:fished], is_found[:fished] = found.examples, found.labels, True
    return replace(found, examples=images, labels=labels, found=is_found)
