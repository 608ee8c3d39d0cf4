"""Settings of a NoProp network in ``[model]``, checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from atoll.clients.ranges import Decay, Depth, Positive, Repetitions, Weight, Width
from atoll.clients.settings import ModelSettings, Section
from atoll.errors import InvalidExperimentError
from atoll.validation import validated

# Each is a pass of every test image through a block.
InferenceSteps = Annotated[int, Field(gt=0, le=100_000)]
Variant = Literal["dt", "ct", "fm"]
# Names of models to the variant.
VARIANTS: Mapping[str, Variant] = {"noprop-dt": "dt", "noprop-ct": "ct", "noprop-fm": "fm"}


class NoPropSettings(Section):
    """Settings of a NoProp network in ``[model]`` that all variants share.

    Attributes
    ----------
    block : "paper", "half" or "small"
        How large the blocks are (:data:`~atoll.clients.noprop.networks.blocks.BLOCK_SIZES`).
    norm : "batch", "group" or "none"
        After the blocks' linear layers.
    dropout : float or None
        In the image path; None is what goes with the block's size.
    precision : "float32" or "bfloat16"
        Of the convolutions' arithmetic.
    embedding : str
        "one-hot" and "orthogonal" are fixed; "learned" is trained; "prototype" starts from an
        image of each class and is trained.
    dimension : int or None
        Of "orthogonal" and "learned" embeddings; 20 (or the classes, if more) by default.
    mean_of : int
        Stochastic runs that are averaged in evaluation.
    """

    block: Literal["paper", "half", "small"] = "paper"
    norm: Literal["batch", "group", "none"] = "batch"
    dropout: Decay | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    embedding: Literal["one-hot", "orthogonal", "learned", "prototype"] = "one-hot"
    dimension: Width | None = None
    mean_of: Repetitions = 5

    @property
    def embedding_is_trained(self) -> bool:
        """Whether the embedding changes in training."""
        return self.embedding in ("learned", "prototype")


class DiscreteSettings(NoPropSettings):
    """NoProp-DT.

    Attributes
    ----------
    steps : int
        T, the number of blocks.
    schedule : "cosine" or "linear"
        How the signal grows from block to block.
    eta : float
        The weight of the squared error, where it is weighed by the SNR.
    snr_weight : bool
        Whether a block's loss is weighed by ``T/2 eta (SNR(t) - SNR(t-1))``, as in the paper, or
        by 1. With a fixed embedding and Adam the two train alike.
    snr_cap : float or None
        The largest difference of SNRs used; 40 by default where the embedding is trained.
    """

    steps: Depth = 10
    schedule: Literal["cosine", "linear"] = "cosine"
    eta: Positive = 0.1
    snr_weight: bool = False
    snr_cap: Positive | None = None


class ContinuousSettings(NoPropSettings):
    """NoProp-CT and NoProp-FM: one network for all times, or one for each of some intervals.

    Attributes
    ----------
    blocks : int
        How many intervals [0, 1] is cut into, each with a network of its own.
    steps : int
        Steps of inference, at least one a block.
    """

    norm: Literal["batch", "group", "none"] = "none"
    blocks: Depth = 1
    steps: InferenceSteps = 1000


class ContinuousTimeSettings(ContinuousSettings):
    """NoProp-CT.

    Attributes
    ----------
    eta : float
        The weight of the squared error.
    snr_weight : bool
        Whether the error is weighed by ``SNR'(t) eta / 2``, as in the paper, or by ``eta / 2``.
        Without the weight the error does not train the noise schedule, whose ends then learn from
        the cross-entropy and the divergence from the prior.
    snr_cap : float or None
        The largest SNR' used.
    intervals : "equal" or "equal-probability"
        Whether the blocks have equal parts of [0, 1], or ranges of noise that are equally probable
        under DiffusionBlocks' log-normal
        (:func:`~atoll.clients.noprop.networks.time_intervals.interval_edges`). Within its interval
        a block's times are uniform either way.
    """

    eta: Positive = 1.0
    snr_weight: bool = False
    snr_cap: Positive | None = None
    intervals: Literal["equal", "equal-probability"] = "equal"


class FlowMatchingSettings(ContinuousSettings):
    """NoProp-FM.

    Attributes
    ----------
    sigma : float
        The standard deviation around the line from noise to embedding.
    """

    sigma: Weight = 0.0


KINDS: Mapping[Variant, type[NoPropSettings]] = {
    "dt": DiscreteSettings,
    "ct": ContinuousTimeSettings,
    "fm": FlowMatchingSettings,
}


def is_noprop(model: ModelSettings) -> bool:
    """Tell whether ``[model]`` names a NoProp network."""
    return model.name.casefold() in VARIANTS


def parse_model(model: ModelSettings, classes: int | None = None) -> NoPropSettings:
    """Return the settings of a NoProp network from ``[model]``.

    Parameters
    ----------
    model : ModelSettings
        ``[model]`` with a name in :data:`VARIANTS`.
    classes : int, optional
        The number of classes, where it is known.

    Raises
    ------
    InvalidExperimentError
        With a line per problem: the key, the value, and what was expected.
    """
    kind = KINDS[VARIANTS[model.name.casefold()]]
    unknown = f"{model.name} has no such argument"
    settings = validated(kind, model.arguments, prefix="model.", unknown=unknown)
    _check_dimension(settings, classes)
    _check_steps(settings)
    return settings


def _check_dimension(settings: NoPropSettings, classes: int | None) -> None:
    dimension, embedding = settings.dimension, settings.embedding
    if dimension is None:
        return
    if embedding == "prototype":
        raise InvalidExperimentError(
            f"model.dimension = {dimension}: prototypes are as wide as images; expected none with "
            "model.embedding = 'prototype'"
        )
    if embedding == "one-hot" and classes is not None and dimension != classes:
        raise InvalidExperimentError(
            f"model.dimension = {dimension}: a one-hot embedding of {classes} classes is "
            f"{classes} wide; expected {classes}, or model.embedding = 'learned' or 'orthogonal'"
        )
    if embedding == "orthogonal" and classes is not None and dimension < classes:
        raise InvalidExperimentError(
            f"model.dimension = {dimension}: {classes} orthogonal embeddings are at least "
            f"{classes} wide; expected {classes} or more"
        )


def _check_steps(settings: NoPropSettings) -> None:
    if isinstance(settings, ContinuousSettings) and settings.steps < settings.blocks:
        raise InvalidExperimentError(
            f"model.steps = {settings.steps}: inference would pass over some of model.blocks = "
            f"{settings.blocks}; expected at least as many"
        )
