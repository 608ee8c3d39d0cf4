"""Row spaces of attention's gradients: which vectors went into a layer's projections.

The gradient of a projection W x by W is the sum over tokens of d x^T, so its rows are in the span
of the layer's inputs x. With fewer tokens than the width, that span has no room for other vectors,
and membership tells the true inputs (Petrov et al., 2024, theorem 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.attacks.threat.observation import Observation
from atoll.errors import AttackError

# How modules of transformers are named that project a layer's input for attention.
PROJECTIONS = frozenset(
    {"query", "key", "value", "qkv", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin"}
)
# Sequences that are run through a model at once.
AT_ONCE = 512
# Estimates of the noise's size, each with the rank of the one before.
ROUNDS = 4
# The noise's largest singular value is above its expectation by less than this factor.
MARGIN = 1.1


@dataclass(frozen=True)
class AttentionLayer:
    """Projections of one attention layer, which have one input.

    Attributes
    ----------
    name : str
        The module that has them.
    first : nn.Linear
        The first of them.
    places : tuple[int, ...]
        Their weights' places in the update.
    """

    name: str
    first: nn.Linear
    places: tuple[int, ...]


def attention_layers(observation: Observation) -> list[AttentionLayer]:
    """Return the attention layers whose projections the client trains, in the model's order.

    Raises
    ------
    AttackError
        If there is none.
    """
    model, found = observation.model, dict[str, list[nn.Linear]]()
    for name, module in model.module.named_modules():
        parent, _, last = name.rpartition(".")
        if last in PROJECTIONS and isinstance(module, nn.Linear):
            found.setdefault(parent, []).append(module)
    layers = []
    for name, modules in found.items():
        places = [model.place_of(module.weight) for module in modules]
        trained = tuple(place for place in places if place is not None)
        if trained:
            layers.append(AttentionLayer(name, modules[0], trained))
    if not layers:
        raise AttackError(
            f"{observation.name}: the model has no attention layer whose projections of queries, "
            "keys or values are trained; expected a transformer"
        )
    return layers


@dataclass(frozen=True)
class Span:
    """Span of a layer's inputs.

    Attributes
    ----------
    basis : Tensor
        Orthonormal, float64, shape (rank, width).
    """

    basis: Tensor

    @property
    def rank(self) -> int:
        """The span's dimensions."""
        return len(self.basis)

    def distances(self, vectors: Tensor) -> Tensor:
        """Return how far vectors (..., width) are from the span, as a share of their length."""
        given = vectors.double()
        inside = given @ self.basis.T @ self.basis
        outside: Tensor = torch.linalg.vector_norm(given - inside, dim=-1)
        length: Tensor = torch.linalg.vector_norm(given, dim=-1)
        return outside / length.clamp_min(1e-12)


def span_of(observation: Observation, layer: AttentionLayer) -> Span:
    """Return the span of the rows of a layer's gradients, without the directions of noise.

    The size of the noise (rounding, or a defense's) is estimated from the least singular value: of
    Gaussian noise of an m x n matrix they lie between sqrt(m) - sqrt(n) and sqrt(m) + sqrt(n) times
    its deviation.
    """
    rows = torch.cat([observation.target[place].double() for place in layer.places])
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    count, width = rows.shape
    rank, limit = 0, 0.0
    for _ in range(ROUNDS):
        spread = math.sqrt(max(1, width - rank))
        deviation = float(values[-1]) / max(math.sqrt(count) - spread, 1e-3)
        limit = MARGIN * deviation * (math.sqrt(count) + spread)
        rank = int((values > limit).sum())
    if rank == 0:
        raise AttackError(
            f"{observation.name}: the gradients of {layer.name!r} have no span that stands out of "
            "noise; expected fewer tokens than the model is wide, and less noise"
        )
    return Span(basis[:rank])


class LayerInputs:
    """Inputs of a model's attention layers for any sequences.

    Parameters
    ----------
    model : nn.Module
        The model, with the parameters that were broadcast.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @torch.no_grad()
    def __call__(self, layer: AttentionLayer, tokens: Tensor) -> Tensor:
        """Return a layer's inputs for sequences (n, length): shape (n, length, width)."""
        found = []
        for part in torch.split(tokens, AT_ONCE):
            with _stopping_at(layer.first) as seen:
                try:
                    self._model(part)
                except _StoppedError:
                    found.append(seen[0])
        return torch.cat(found)


class _StoppedError(Exception):
    """Raised where a model need not be run further."""


@contextmanager
def _stopping_at(module: nn.Module) -> Iterator[list[Tensor]]:
    """Keep a module's input, and stop the model there."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].detach())
        raise _StoppedError

    handle = module.register_forward_pre_hook(stop)
    try:
        yield seen
    finally:
        handle.remove()
