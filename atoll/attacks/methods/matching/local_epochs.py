"""Inversion of several local epochs (Dimitrov et al., TMLR 2022, arXiv 2206.12395).

A client shuffles its images before each epoch, so the attacker does not know which images a step
used. It optimises images of their own for every epoch, and a prior draws the sets of images of the
epochs together, in whatever order they are in. In the end the epochs' images are matched with each
other, label by label, and averaged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import (
    OptimizationAttack,
    matching_objective,
    to_unit,
)
from atoll.attacks.metrics.example_metrics import hungarian
from atoll.attacks.metrics.image_assignment import squared_distances
from atoll.attacks.optim.matching import COSTS
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.priors import PriorCost, total_variation
from atoll.attacks.optim.step_rules import step_rule
from atoll.attacks.optim.step_size_schedules import SCHEDULES
from atoll.attacks.threat.labels import LabelMethod
from atoll.attacks.threat.observation import LocalTraining, Observation
from atoll.attacks.threat.victim_units import WHOLE
from atoll.clients.ranges import Iterations, Rate, Weight
from atoll.errors import AttackError
from atoll.randomness import derive_seed

# Channels of the random convolution by which sets of images are compared.
CHANNELS = 32
# Added to a squared distance: images of different labels are not matched.
OTHER_LABEL = 1e6


class LocalEpochs(OptimizationAttack):
    """Images of each epoch, an order-invariant prior, and labels inferred from several steps.

    Attributes
    ----------
    steps : int
        Of the optimiser.
    learning_rate : float
        In units of normalised pixels.
    tv : float
        What the total variation counts for.
    invariant : float
        What the distance between the sets of images of the epochs counts for.
    aggregation : "mean" or "max"
        How the features of a set are put together, whatever the order.
    label_method : str
        How labels are inferred; "interpolated" allows for the change of the model over the steps.
    rule : str
        "adam" or "signed-adam".
    schedule : str
        How the learning rate falls.
    cost : str
        A name in :data:`~atoll.attacks.optim.matching.COSTS`.
    """

    steps: Iterations = 1000
    learning_rate: Rate = 0.1
    tv: Weight = 1e-3
    invariant: Weight = 1e-1
    aggregation: Literal["mean", "max"] = "mean"
    label_method: LabelMethod = "interpolated"
    rule: Literal["adam", "signed-adam"] = "signed-adam"
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    cost: Literal["cosine", "layerwise-cosine", "l2"] = "cosine"

    def check(self, observation: Observation) -> None:
        """Refuse clients whose layers are trained apart, and an order that is given."""
        super().check(observation)
        if not observation.model.is_trained_whole:
            raise AttackError(
                f"{observation.name}: its layers are trained apart; expected a model that is "
                "trained as a whole"
            )
        if self.batch_order == "given":
            raise AttackError(
                "batch_order = 'given': expected 'assumed', or 'inverting-gradients', which needs "
                "no images of each epoch where their order is known"
            )

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        training, images = group.first.training, group.first.num_images
        assert training is not None
        plan = epochs_of(training, images)
        of_epochs = _with_images_of_epochs(group, plan)
        minimum = minimize(
            matching_objective(
                of_epochs,
                COSTS[self.cost],
                lambda values: values[0],
                [
                    (self.tv, total_variation),
                    (self.invariant, order_invariant(len(plan), self.aggregation, group.seed)),
                ],
            ),
            [of_epochs.image_noise],
            step_rule(self.rule, self.learning_rate),
            self.steps,
            schedule=SCHEDULES[self.schedule],
            project=of_epochs.into_box,
            on_step=lambda done: progress(done, self.steps),
        )
        results = []
        chosen = minimum.matching.view(-1, group.restarts).nan_to_num(nan=torch.inf).argmin(1)
        for victim, restart in enumerate(chosen.tolist()):
            place = victim * group.restarts + restart
            pixels = to_unit(group.observations[victim], minimum.values[0][place])
            labels = of_epochs.labels[place].cpu()
            averaged = average_over_epochs(
                pixels.view(len(plan), images, *pixels.shape[1:]), labels.view(len(plan), images)
            )
            results.append(
                Reconstruction(
                    examples=averaged,
                    labels=labels[:images],
                    label_source=group.label_source,
                    cost=float(minimum.matching[place]),
                    cost_path=minimum.path[place].cpu(),
                    restart=restart,
                )
            )
        return results


def epochs_of(training: LocalTraining, images: int) -> list[list[Tensor]]:
    """Return each epoch's batches, as indices into the epoch's images; the last may be cut."""
    if training.replies_gradient:
        return [[torch.arange(images)]]
    left, plan = training.steps, list[list[Tensor]]()
    while left > 0:
        batches = list(torch.split(torch.arange(images), training.settings.batch_size))[:left]
        plan.append(batches)
        left -= len(batches)
    return plan


def _with_images_of_epochs(group: Group, plan: list[list[Tensor]]) -> Group:
    """Return a group whose victims have images of their own for each epoch, in drawn orders.

    The labels' order over an epoch's batches is unknown: each candidate tries one of its own.
    """
    images = group.first.num_images
    batches = tuple(batch + epoch * images for epoch, steps in enumerate(plan) for batch in steps)
    labels = torch.stack(
        [
            torch.cat([own[torch.randperm(images, generator=g).to(own.device)] for _ in plan])
            for own, g in zip(group.labels, group.generators("label order"), strict=True)
        ]
    )
    observations = tuple(
        replace(observation, num_examples=images * len(plan), batches={WHOLE: batches})
        for observation in group.observations
    )
    return replace(group, observations=observations, labels=labels)


def order_invariant(epochs: int, aggregation: Literal["mean", "max"], seed: int) -> PriorCost:
    """Return the prior that the epochs' sets of images are alike, in whatever order.

    It is the mean squared distance, over pairs of epochs, of the sets' aggregated features; these
    are a random convolution's (Dimitrov et al., 2022, eq. 4).

    Parameters
    ----------
    epochs : int
        Images are those of the first epoch, then of the second, and so on, as many of each.
    aggregation : "mean" or "max"
        Over a set.
    seed : int
        Of the convolution.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order-invariant prior"))

    drawn: list[Tensor] = []

    def prior(images: Tensor) -> Tensor:
        if epochs == 1:
            return images.new_zeros(len(images))
        channels = images.shape[2]
        if not drawn:
            weight = torch.randn(CHANNELS, channels, 3, 3, generator=generator)
            drawn.append((weight / (9 * channels) ** 0.5).to(images))
        features = F.relu(F.conv2d(images.flatten(0, 1), drawn[0], padding=1))
        sets = features.view(len(images), epochs, -1, *features.shape[1:])
        whole = sets.mean(2) if aggregation == "mean" else sets.amax(2)
        # The mean over pairs of squared distances is twice the variance over the epochs.
        return 2 * (whole - whole.mean(1, keepdim=True)).square().flatten(1).mean(1)

    return prior


def average_over_epochs(images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of each image over the epochs, in the order of the first.

    Parameters
    ----------
    images : Tensor
        Shape (epochs, n, channels, height, width).
    labels : Tensor
        int64, shape (epochs, n); only images of one label are matched.

    Returns
    -------
    Tensor
        Shape (n, channels, height, width).
    """
    matched = [images[0]]
    for others, own in zip(images[1:], labels[1:], strict=True):
        distances = squared_distances(images[0], others)
        differ = labels[0][:, None] != own[None, :]
        matched.append(others[hungarian(distances + OTHER_LABEL * differ)])
    return torch.stack(matched).mean(0)
