"""Baselines for tables and texts that ignore the update: what attacks must beat.

They draw or choose each column of a table, or each place of a sequence, by itself from public
examples, as the random baseline of TabLeak does (Vero et al., 2023).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.table import NumberColumn, TableInputs
from atoll.errors import AttackError
from atoll.randomness import derive_seed


class _OfColumns(SeparateAttack):
    """Base of the baselines by columns of public examples."""

    kinds: ClassVar[frozenset[str]] = frozenset({"table", "tokens"})
    # TRAINING says how many examples there are.
    needs = frozenset({Capability.PUBLIC_DATA, Capability.TRAINING})

    def check(self, observation: Observation) -> None:
        """Refuse public examples of another width."""
        public, expected = _public(observation), observation.inputs.stored_shape
        if len(public) == 0 or public.shape[1:] != expected:
            raise AttackError(
                f"the public examples have shape {tuple(public.shape)}, expected (n > 0, "
                f"{', '.join(map(str, expected))})"
            )


class MarginalSample(_OfColumns):
    """Each cell drawn from the same column of public examples, each by itself."""

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Draw cells."""
        public, count = _public(observation), observation.num_examples
        own = derive_seed(seed, "marginal sample", observation.server_round, observation.node_id)
        generator = torch.Generator().manual_seed(own)
        drawn = torch.randint(len(public), (count, public.shape[1]), generator=generator)
        return _unlabelled(public.gather(0, drawn))


class MarginalMode(_OfColumns):
    """Each cell the most frequent category or token of public examples, or the median number."""

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Look the cells up."""
        public = _public(observation)
        cells = [
            column.nanmedian() if is_number else column.mode().values
            for column, is_number in zip(public.T, _are_numbers(observation.inputs), strict=True)
        ]
        return _unlabelled(torch.stack(cells).expand(observation.num_examples, -1).clone())


def _public(observation: Observation) -> Tensor:
    assert observation.public is not None
    return observation.public.examples


def _are_numbers(inputs: Inputs) -> list[bool]:
    if isinstance(inputs, TableInputs):
        return [isinstance(column, NumberColumn) for column in inputs.columns]
    return [False] * inputs.stored_shape[0]


def _unlabelled(examples: Tensor) -> Reconstruction:
    return Reconstruction(examples, torch.full((len(examples),), -1), "none")
