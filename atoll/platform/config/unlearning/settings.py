"""The section ``[unlearn]`` of an experiment file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atoll.clients.ranges import BatchSize, Count, Decay, Epochs, Norm, Number, Positive, Rate
from atoll.clients.sections import FilePath, Section

RETRAIN, FINE_TUNE = "retrain", "fine-tune"
GRADIENT_ASCENT, PROJECTED_ASCENT = "gradient-ascent", "projected-ascent"
# The round of the ascent: before that in the ball there is one of the reference model's.
ASCENT_ROUNDS = {GRADIENT_ASCENT: 1, PROJECTED_ASCENT: 2}

Method = Literal["retrain", "fine-tune", "gradient-ascent", "projected-ascent"]


class UnlearnSettings(Section):
    """``[unlearn]``: clients that leave the federation, and how their part in the model is undone.

    They are in no round of the run, but that in which they ascend.

    Attributes
    ----------
    nodes : tuple[int, ...]
        Node numbers of the clients that leave, from 1.
    method : str
        "retrain": from new parameters, without them. "fine-tune": from the model of ``run``, by
        the others. "gradient-ascent": they raise their own loss first. "projected-ascent": in a
        ball around a model that the others make first (Halimi et al., 2022).
    run : Path or None
        The run directory whose last model is unlearned; none for "retrain".
    ascent_epochs : int
        Passes of the ascent over a leaving client's examples, at most.
    ascent_learning_rate : float
        The ascent's.
    ascent_momentum : float
        The ascent's, in [0, 1).
    ascent_gradient_clip : float
        The largest norm of a gradient in the ascent.
    ascent_batch_size : int or None
        Examples a step of the ascent; by default ``client.batch_size``.
    stop : float or None
        The task's main metric on the client's examples at which the ascent ends; by default, of
        a classification, 1.2 times the accuracy of guessing.
    radius : float or None
        The ball's; by default from the distance to models with random parameters.

    Examples
    --------
    >>> from atoll.platform.config.unlearning.settings import UnlearnSettings
    >>> UnlearnSettings(nodes=(3,), method="projected-ascent", run="runs/mine").rounds_before_repair
    2
    """

    nodes: Annotated[tuple[Count, ...], Field(strict=False, min_length=1, examples=[[3]])]
    method: Annotated[Method, Field(examples=["projected-ascent"])]
    run: Annotated[FilePath | None, Field(examples=["runs/quickstart"])] = None
    ascent_epochs: Epochs = 5
    ascent_learning_rate: Rate = 0.01
    ascent_momentum: Decay = 0.9
    ascent_gradient_clip: Norm = 5.0
    ascent_batch_size: Annotated[BatchSize | None, Field(examples=[128])] = None
    stop: Annotated[Number | None, Field(examples=[0.12])] = None
    radius: Annotated[Positive | None, Field(examples=[1.0])] = None

    @property
    def ascent_round(self) -> int | None:
        """The round in which the clients that leave ascend; None if they do not."""
        return ASCENT_ROUNDS.get(self.method)

    @property
    def rounds_before_repair(self) -> int:
        """Rounds before those in which the others train on: of the reference, of the ascent."""
        return self.ascent_round or 0
