"""Layer-wise training of a client in a NoProp federation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import nn

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.noprop.block_training.epoch_training import EpochResult, train_epoch
from atoll.clients.noprop.block_training.example_source import ExampleSource
from atoll.clients.noprop.block_training.training_units import (
    HEAD,
    BlockUnit,
    HeadUnit,
    TrainingUnit,
)
from atoll.clients.noprop.layer_keys import block_prefix, keys_by_layer, shared_prefix
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.settings import ClientSettings
from atoll.flower.arrays import array_record, to_array
from atoll.randomness import derive_seed, seed_everything


@dataclass(frozen=True)
class TrainedLayers:
    """Result of a client's layer-wise training.

    Attributes
    ----------
    arrays : ArrayRecord
        Under the keys that were given, in their order.
    blocks : list[int]
        Which were trained, from 0.
    loss : float
        The mean of the blocks' losses.
    """

    arrays: ArrayRecord
    blocks: list[int]
    loss: float


def block_name(index: int) -> str:
    """Return the name of a block among the units of a client."""
    return f"block {index}"


def client_unit_names(design: Design, layers: Sequence[int]) -> list[str]:
    """Return the names of a client's units: its blocks, and DT's head."""
    has_own_head = design.variant == "dt" and not design.is_shared_part_trained_by_blocks
    return [*map(block_name, layers), *([HEAD] if has_own_head else [])]


def unit_seed(seed: int, server_round: int, partition: int, name: str) -> int:
    """Return the seed of a client's draws for a unit in a round.

    The unit's name is in it: what a block draws does not depend on the client's others.
    """
    return derive_seed(seed, server_round, "train", partition, name)


class LayerTraining:
    """Training of some layers of a network, one after another, each from its own random state.

    Parameters
    ----------
    design : Design
        The network's.
    examples : ExampleSource
        The client's.
    client : ClientSettings
        ``[client]``.
    learning_rate : float
        Of the round.
    seed_of : callable
        Returns the seed of a unit by its name (:func:`client_unit_names`).
    proximal_mu : float, optional
        The weight of FedProx's term; by default that of the settings.
    device : str
        Where it computes.
    """

    def __init__(
        self,
        design: Design,
        examples: ExampleSource,
        client: ClientSettings,
        *,
        learning_rate: float,
        seed_of: Callable[[str], int],
        proximal_mu: float | None = None,
        device: str = "cpu",
    ) -> None:
        self._design = design
        self._examples = examples
        self._client = client
        self._learning_rate = learning_rate
        self._seed_of = seed_of
        self._proximal_mu = proximal_mu
        self._device = device

    def run(self, given: ArrayRecord) -> TrainedLayers:
        """Train the layers that ``given`` has arrays of.

        Raises
        ------
        ValueError
            If arrays are missing, or of other shapes.
        """
        by_layer = keys_by_layer(given)
        shared_keys = by_layer.pop(None, [])
        blocks = sorted(index for index in by_layer if index is not None)
        results, trained = [], dict(given)
        shared_copies: list[dict[str, NDArray[Any]]] = []
        for index in blocks:
            shared = self._shared_part(given, shared_keys)
            block = self._design.make_block().to(self._device)
            _load(block, given, block_prefix(index))
            unit = BlockUnit(self._design, index, block, shared)
            results.append(self._train(unit, block_name(index)))
            trained |= _read(block, block_prefix(index))
            if self._design.is_shared_part_trained_by_blocks:
                shared_copies.append(_values(shared, shared_prefix()))
        trained |= self._trained_shared_part(given, shared_keys, shared_copies)
        loss = sum(r.loss for r in results) / max(1, len(results))
        return TrainedLayers(array_record({key: trained[key] for key in given}), blocks, loss)

    def _shared_part(self, given: ArrayRecord, keys: list[str]) -> SharedPart:
        shared = self._design.make_shared_part()
        if keys:
            _load(shared, given, shared_prefix())
        return shared.to(self._device)

    def _trained_shared_part(
        self, given: ArrayRecord, keys: list[str], copies: list[dict[str, NDArray[Any]]]
    ) -> dict[str, Array]:
        """Return the shared part's arrays: the blocks' mean, or the head trained by itself."""
        if not keys:
            return {}
        if copies:
            # Each block moved a copy of its own; a declared point of agreement is their mean.
            return {
                key: to_array(
                    np.mean([copy[key] for copy in copies], axis=0, dtype=np.float64).astype(
                        copies[0][key].dtype
                    )
                )
                for key in keys
            }
        shared = self._shared_part(given, keys)
        if self._design.variant == "dt":
            self._train(HeadUnit(self._design, shared), HEAD)
        return _read(shared, shared_prefix())

    def _train(self, unit: TrainingUnit, name: str) -> EpochResult:
        seed = self._seed_of(name)
        seed_everything(seed)
        return train_epoch(
            unit,
            self._examples,
            self._client,
            learning_rate=self._learning_rate,
            generator=torch.Generator().manual_seed(seed),
            proximal_mu=self._proximal_mu,
        )


def _load(module: nn.Module, given: ArrayRecord, prefix: str) -> None:
    own = {key.removeprefix(prefix): a for key, a in given.items() if key.startswith(prefix)}
    ModelArrays(module).load(array_record(own))


def _values(module: nn.Module, prefix: str) -> dict[str, NDArray[Any]]:
    return {prefix + key: value.copy() for key, value in ModelArrays(module).values().items()}


def _read(module: nn.Module, prefix: str) -> dict[str, Array]:
    return {prefix + key: array for key, array in ModelArrays(module).read().items()}
