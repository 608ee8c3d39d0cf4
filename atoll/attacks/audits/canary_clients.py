"""Canary clients: clients whose update is a random direction, or next to nothing, by a coin.

A canary's update is independent of the data and as far from everything else as can be, so what a
mechanism lets through of it is what it lets through of anybody (Andrew et al., 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from numpy.typing import NDArray
from pydantic import Field

from atoll import flower
from atoll.clients.ranges import NonNegativeCount, Norm, Seed
from atoll.clients.settings import Section
from atoll.flower.arrays import array_record, to_array, view
from atoll.randomness import derive_seed

Shapes = Mapping[str, tuple[int, ...]]
# Of a canary's norm, that of one whose coin says no. Flower's clipping divides by the norm, so it
# cannot be zero.
OUT = 1e-6


def is_included(seed: int, node: int) -> bool:
    """Return a canary's coin.

    Examples
    --------
    >>> sum(is_included(0, node) for node in range(1000))
    534
    """
    return bool(derive_seed(seed, "canary coin", node) % 2)


def direction(shapes: Shapes, seed: int, node: int) -> dict[str, NDArray[np.float64]]:
    """Return a canary's direction, uniform on the sphere of all arrays together.

    Parameters
    ----------
    shapes : Mapping
        Shapes of the model's arrays by name.
    seed, node : int
        What the direction depends on, beside the shapes.

    Examples
    --------
    >>> found = direction({"a": (2, 3), "b": (4,)}, seed=0, node=7)
    >>> round(float(sum((values**2).sum() for values in found.values())), 6)
    1.0
    """
    generator = np.random.default_rng(derive_seed(seed, "canary direction", node))
    drawn = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    norm = math.sqrt(sum(float(np.vdot(values, values)) for values in drawn.values()))
    return {name: values / norm for name, values in drawn.items()}


class CanaryClients(Section):
    """A mod that makes some nodes canaries; it has their coins decide what they send.

    It must be the innermost mod: clipping and noise of other mods act on what it makes.

    Attributes
    ----------
    first : int
        Nodes from this id on are canaries.
    norm : float
        The L2 norm of a canary's update; larger than any clipping norm, so that it is clipped.
    seed : int
        What coins and directions derive from.
    """

    first: NonNegativeCount
    norm: Norm
    seed: Seed = Field(default=0)

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a training message of a canary by its direction, or by next to no change."""
        reply = call_next(message, context)
        node = message.metadata.dst_node_id
        is_training = message.metadata.message_type.startswith("train")
        if node < self.first or not is_training or reply.has_error():
            return reply
        [(name, sent)] = message.content.array_records.items()
        scale = self.norm * (1.0 if is_included(self.seed, node) else OUT)
        reply.content[name] = _moved(sent, scale, self.seed, node)
        return reply


def _moved(arrays: ArrayRecord, scale: float, seed: int, node: int) -> ArrayRecord:
    before = {name: view(array) for name, array in arrays.items()}
    drawn = direction({name: values.shape for name, values in before.items()}, seed, node)
    return array_record(
        {
            name: to_array((values + scale * drawn[name]).astype(values.dtype))
            for name, values in before.items()
        }
    )


def canary_cosines(
    before: ArrayRecord, after: ArrayRecord, nodes: range, seed: int
) -> NDArray[np.float64]:
    """Return the cosines of canaries' directions with a model's change, shape (canaries,).

    Parameters
    ----------
    before, after : ArrayRecord
        The initial model and the released one.
    nodes : range
        The canaries' ids.
    seed : int
        The mod's.
    """
    change = {name: view(after[name]).astype(np.float64) - view(a) for name, a in before.items()}
    norm = math.sqrt(sum(float(np.vdot(values, values)) for values in change.values()))
    shapes = {name: values.shape for name, values in change.items()}
    found = [
        sum(float(np.vdot(change[name], values)) for name, values in drawn.items())
        for drawn in (direction(shapes, seed, node) for node in nodes)
    ]
    return np.array(found) / max(norm, np.finfo(np.float64).tiny)
