"""A class unlearned by a trained generator: Adapt-then-Unlearn, in the space of its parameters.

Tiwary, Guha, Panda and Prathosh, "Adapt then Unlearn: Exploring Parameter Space Semantics for
Unlearning in Generative Adversarial Networks" (2023, arXiv 2309.14054). Stage 1 adapts the
generator to the undesired samples alone. Stage 2 trains the original one on the others, and repels
its parameters from those of the adapted one. There both are a GAN's; our generators are decoders of
variational autoencoders, so both stages train as these were trained, and an encoder, which is not
kept with a generator, is trained for it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from atoll.attacks.generators.conditional import ConditionalGenerator
from atoll.attacks.generators.vae_training import GeneratorTraining, TrainingSettings
from atoll.clients.ranges import BatchSize, Iterations, Positive, Rate, Seed, Weight
from atoll.clients.sections import Section
from atoll.randomness import derive_seed

Repulsion = Literal["il2", "nl2", "el2", "none"]
# Told of a stage, how many of its steps are done, and the loss.
OnStep = Callable[[str, int, float], None]
# The least of some that were tried on the digits and took a class away.
GAMMAS: Mapping[Repulsion, float] = {"nl2": 0.1, "il2": 10.0, "el2": 10.0, "none": 0.0}
ENCODER, ADAPT, UNLEARN = "encoder", "adapt", "unlearn"


class ClassUnlearningSettings(Section):
    """Settings of the unlearning of a class.

    Attributes
    ----------
    repulsion : str
        "il2": the inverse of the squared distance; "nl2": its negative; "el2": the exponential of
        its negative; "none": fine-tuning on the other classes, the control.
    gamma : float or None
        What the repulsion is multiplied by; by default 0.1 of "nl2" and 10 of the others.
    alpha : float
        The factor in the exponent of "el2".
    encoder_steps, adapt_steps, steps : int
        Of Adam, in the three stages.
    batch_size : int
        Examples a step.
    learning_rate : float
        Where it starts in each stage; it falls along a cosine to 0.
    seed : int
        One seed, one generator.
    """

    repulsion: Repulsion = "nl2"
    gamma: Annotated[Weight | None, Field(examples=[0.1])] = None
    alpha: Positive = 0.1
    encoder_steps: Iterations = 500
    adapt_steps: Iterations = 150
    steps: Iterations = 200
    batch_size: BatchSize = 64
    learning_rate: Rate = 2e-3
    seed: Seed = 0

    @property
    def factor(self) -> float:
        """What the repulsion is multiplied by."""
        return GAMMAS[self.repulsion] if self.gamma is None else self.gamma


def squared_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the squared L2 distance of two lists of tensors, a scalar in their graph.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks.generators.class_unlearning import squared_distance
    >>> squared_distance([torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 4.0])])
    tensor(25.)
    """
    return torch.stack([(a - b).square().sum() for a, b in zip(first, second, strict=True)]).sum()


def repulsion_of(kind: Repulsion, squared: Tensor, alpha: float = 1.0) -> Tensor:
    """Return the repulsion of a squared distance d: 1 / d, -d, exp(-alpha d), or 0.

    Parameters
    ----------
    kind : "il2", "nl2", "el2" or "none"
        Which, as the paper names them.
    squared : Tensor
        The squared distance to the adapted parameters, a scalar.
    alpha : float
        Of "el2".

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks.generators.class_unlearning import repulsion_of
    >>> repulsion_of("il2", torch.tensor(4.0)), repulsion_of("nl2", torch.tensor(4.0))
    (tensor(0.2500), tensor(-4.))
    """
    if kind == "il2":
        return 1.0 / squared
    if kind == "nl2":
        return -squared
    if kind == "el2":
        return torch.exp(-alpha * squared)
    return torch.zeros_like(squared)


def unlearn_class(
    generator: ConditionalGenerator,
    training: TrainingSettings,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    undesired: int,
    settings: ClassUnlearningSettings,
    on_step: OnStep = lambda stage, step, loss: None,
) -> ConditionalGenerator:
    """Return a generator that no longer draws a class.

    The squared distance in the repulsion is in units of that of the original parameters to the
    adapted ones, so that ``gamma`` and ``alpha`` mean the same for generators of any size. The
    adapted ones are those of training on the undesired images under their own label. The codes'
    Gaussians are fitted again to the other classes; that of the undesired one is the standard one.

    Parameters
    ----------
    generator : ConditionalGenerator
        The original; it stays as it is.
    training : TrainingSettings
        Those that it was trained with: its latent and width.
    images : NDArray[uint8]
        Of all classes, shape (n, height, width, channels).
    labels : NDArray[int64]
        Shape (n,).
    undesired : int
        The class.
    settings : ClassUnlearningSettings
        How.
    on_step : callable
        Told of each step.

    Raises
    ------
    ValueError
        If there is no image of the class, or none of another.
    """
    is_undesired = labels == undesired
    if not is_undesired.any() or is_undesired.all():
        raise ValueError(f"class {undesired}: expected images of it, and of other classes")
    make = partial(_training, generator, training, settings)
    first = make(ENCODER, images, labels)
    first.train_encoder_alone()
    _run(first, ENCODER, on_step)
    adapted = make(ADAPT, images[is_undesired], labels[is_undesired])
    adapted.start_from(generator, first.encoder)
    _run(adapted, ADAPT, on_step)
    left = make(UNLEARN, images[~is_undesired], labels[~is_undesired])
    left.start_from(generator, first.encoder)
    if settings.repulsion != "none":
        away_from = _values(adapted.generator)
        unit = squared_distance(_values(left.generator), away_from)
        parameters = list(left.generator.parameters())

        def penalty() -> Tensor:
            distance = squared_distance(parameters, away_from) / unit
            return settings.factor * repulsion_of(settings.repulsion, distance, settings.alpha)

        left.penalty = penalty
    _run(left, UNLEARN, on_step)
    left.generator.mean[undesired] = 0.0
    left.generator.factor[undesired] = torch.eye(left.generator.latent)
    return left.finish()


def _training(
    generator: ConditionalGenerator,
    training: TrainingSettings,
    settings: ClassUnlearningSettings,
    stage: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> GeneratorTraining:
    """Return the training of a stage, which begins with the original generator."""
    steps = {
        ENCODER: settings.encoder_steps,
        ADAPT: settings.adapt_steps,
        UNLEARN: settings.steps,
    }
    own = training.model_copy(
        update={
            "steps": steps[stage],
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "seed": derive_seed(settings.seed, "unlearning of a class", stage),
        }
    )
    made = GeneratorTraining(images, labels, generator.classes or 0, own)
    made.start_from(generator)
    return made


def _run(training: GeneratorTraining, stage: str, on_step: OnStep) -> None:
    while training.step < training.settings.steps:
        training.take_step()
        on_step(stage, training.step, float(training.loss))


def _values(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]
