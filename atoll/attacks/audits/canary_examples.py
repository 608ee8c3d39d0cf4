"""Canary examples: examples of a client whose gradient is a random direction, or nothing.

They are for auditing DP-SGD. A canary's gradient takes the place of that of one of the client's
examples before it is clipped, so clipping and noise are those of the mechanism (the Dirac canaries
of Nasr et al., 2023, and the gradient attack of Steinke, Nasr and Jagielski, 2023, with directions
that are uniform on the sphere).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from flwr.app import Context, Message
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from atoll import flower
from atoll.attacks.audits.canary_clients import Shapes, direction, is_included
from atoll.clients.ranges import Count, NonNegativeCount, Norm, Seed
from atoll.clients.settings import Section
from atoll.clients.training.step_mods import LocalStep, StepGradient, on_steps


class CanaryExamples(Section):
    """A mod that makes examples of one node canaries; their coins decide on their gradients.

    It must be the innermost mod, with DP-SGD around it. The examples are told apart by their place
    in a pass, where each is once.

    Attributes
    ----------
    node : int
        The client.
    canaries : int
        How many of its examples.
    norm : float
        The L2 norm of a canary's gradient; larger than the clipping norm, so that it is clipped.
    seed : int
        What coins and directions derive from.
    """

    node: NonNegativeCount
    canaries: Count
    norm: Norm
    seed: Seed = Field(default=0)

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a message of the client with canaries among its examples."""
        is_training = message.metadata.message_type.startswith("train")
        if message.metadata.dst_node_id != self.node or not is_training:
            return call_next(message, context)
        seen = 0

        def with_canaries(step: LocalStep, compute: StepGradient) -> list[Tensor]:
            nonlocal seen
            gradient = compute(step)
            places = [(seen + row) % step.examples for row in range(len(step.labels))]
            seen += len(places)
            self._replace(step, places)
            return gradient

        with on_steps(with_canaries):
            return call_next(message, context)

    def _replace(self, step: LocalStep, places: Sequence[int]) -> None:
        """Put canaries' gradients in the place of examples'."""
        named = [(k, p) for k, p in step.model.named_parameters() if p.requires_grad]
        shapes = tuple((name, tuple(parameter.shape)) for name, parameter in named)
        for row, place in enumerate(places):
            if place >= self.canaries:
                continue
            scale = self.norm if is_included(self.seed, place) else 0.0
            drawn = _direction(shapes, self.seed, place)
            for name, parameter in named:
                samples = getattr(parameter, "grad_sample", None)
                if not isinstance(samples, Tensor):
                    raise ValueError(
                        f"canary examples: {name} has no gradient of each example; expected "
                        "dp-sgd around them"
                    )
                samples[row] = scale * drawn[name].to(samples)


@lru_cache(maxsize=512)
def _direction(
    shapes: tuple[tuple[str, tuple[int, ...]], ...], seed: int, place: int
) -> dict[str, Tensor]:
    found = direction(dict(shapes), seed, place)
    return {name: torch.from_numpy(values) for name, values in found.items()}


def example_cosines(
    changes: Sequence[Mapping[str, Tensor]], shapes: Shapes, canaries: int, seed: int
) -> NDArray[np.float64]:
    """Return the cosines of canaries' directions with what a client sent, shape (canaries,).

    Parameters
    ----------
    changes : Sequence[Mapping[str, Tensor]]
        What each round's training changed of the model; a gradient moves it the other way.
    shapes : Mapping
        Shapes of the trainable parameters by name, in the model's order.
    canaries, seed : int
        The mod's.

    Examples
    --------
    >>> shapes = {"weight": (30, 10)}
    >>> canary = direction(shapes, 0, 1)["weight"]
    >>> changes = [{"weight": torch.from_numpy(-2.0 * canary)}]
    >>> example_cosines(changes, shapes, canaries=2, seed=0).round(1).tolist()
    [0.0, 1.0]
    """
    total = {name: -sum(change[name].double().numpy() for change in changes) for name in shapes}
    norm = math.sqrt(sum(float(np.vdot(values, values)) for values in total.values()))
    found = [
        sum(float(np.vdot(total[name], values)) for name, values in drawn.items())
        for drawn in (direction(shapes, seed, place) for place in range(canaries))
    ]
    return np.array(found) / max(norm, np.finfo(np.float64).tiny)
