"""Memory that training a layer takes, computed from its tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atoll.clients.noprop.block_training.training_units import TrainingUnit, make_unit
from atoll.clients.noprop.networks.design import Design
from atoll.clients.settings import ClientSettings


def training_bytes(unit: TrainingUnit, design: Design, client: ClientSettings) -> int:
    """Return the bytes that training a unit takes at a batch of ``client.batch_size``.

    Parameters and buffers, gradients, the optimiser's moments, and what the forward pass keeps
    for the backward pass, each storage once.
    """
    trained = sum(_bytes(p) for p in unit.module.parameters() if p.requires_grad)
    moments = {"sgd": 1 if client.momentum else 0, "adam": 2, "adamw": 2}[client.optimizer]
    held = held_bytes(unit.module)
    return held + (1 + moments) * trained + saved_bytes(unit, design, client.batch_size)


def saved_bytes(unit: TrainingUnit, design: Design, batch_size: int) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in unit.module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give(tensor: Tensor) -> Tensor:
        return tensor

    device = next(unit.module.parameters()).device
    generator = torch.Generator().manual_seed(0)
    unit.module.train()
    statistics = {key: value.clone() for key, value in unit.module.state_dict().items()}
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, give):
        images = design.inputs.blank(batch_size).to(device)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
        # The loss holds the graph, so that no storage is given to another tensor meanwhile.
        loss = unit.loss(images, labels, unit.draw(batch_size, generator))
        total = sum(kept.values())
        del loss
    unit.module.load_state_dict(statistics)
    return total


def held_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    return sum(_bytes(tensor) for tensor in module.state_dict().values())


class ClientMemory:
    """Memory of a client that trains ``k`` blocks, one after another.

    It holds one block in training, and the blocks that it got and those that it sends.

    Parameters
    ----------
    design : Design
        The network's.
    client : ClientSettings
        ``[client]``.
    """

    def __init__(self, design: Design, client: ClientSettings) -> None:
        shared = design.make_shared_part()
        unit = make_unit("block-01", design, shared, 0)
        self._blocks = design.blocks
        self._block = held_bytes(design.make_block())
        self._fixed = training_bytes(unit, design, client) + 2 * held_bytes(shared)

    def needed(self, blocks: int) -> int:
        """Return the bytes that training ``blocks`` blocks takes."""
        return self._fixed + 2 * blocks * self._block

    def fitting(self, budget: float | None) -> int:
        """Return how many blocks fit; all of them where there is no budget.

        Parameters
        ----------
        budget : float or None
            Bytes.
        """
        if budget is None:
            return self._blocks
        fitting = int((budget - self._fixed) // (2 * self._block))
        return max(0, min(self._blocks, fitting))


def budget_of(client: ClientSettings, partition: int) -> float | None:
    """Return the bytes that a client declares to have for training, or None for no limit."""
    declared = client.memory_mb
    return declared[partition % len(declared)] * 1e6 if declared else None


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
