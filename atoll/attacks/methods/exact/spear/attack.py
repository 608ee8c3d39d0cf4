"""SPEAR on an observation: checks, a bounded search, and the examples that were found."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.func import grad

from atoll.attacks.base.attack import LabelSource, Reconstruction, SeparateAttack
from atoll.attacks.methods.exact.spear.directions import (
    Decomposition,
    Directions,
    agreement,
    decompose,
    inputs_of,
    reweight,
    sample,
    settle,
    sparsest_basis,
)
from atoll.attacks.methods.exact.spear.first_layer import FirstLayer, first_layer
from atoll.attacks.threat.observation import Observation
from atoll.clients.ranges import Fraction, Iterations
from atoll.clients.tasks.classification import Classification
from atoll.errors import AttackError
from atoll.randomness import derive_seed

# Samples at once: some megabytes.
AT_ONCE = 1000
# Units may differ in so small a share where rounding decides about zero: the search is over.
EXACT = 0.99
# By how much reweighting at most shortens the search (docs/results/attacks.md has measurements).
GAIN = 1000


def expected_samples(batch: int, inactive: float = 0.5) -> float:
    """Return how many random sets of rows SPEAR needs for one example's direction.

    Each of batch - 1 rows must be of a unit that is off for the example (Dimitrov et al., 2024,
    sec. 3).

    Parameters
    ----------
    batch : int
        How many examples.
    inactive : float
        The share of units that are off for an example, in (0, 1).

    Examples
    --------
    >>> expected_samples(8), expected_samples(16)
    (128.0, 32768.0)
    """
    return inactive ** -(batch - 1)


class SPEAR(SeparateAttack):
    """Sparsest basis of the first layer's gradient: all examples of a batch, exactly.

    Each example's inputs and label are read off the update; nothing but the update and the number
    of examples is needed. The client may take several steps of plain SGD; the examples of all of
    them are then one batch. Examples that were not recovered are blank, and marked so.

    Attributes
    ----------
    samples : int
        Random starts of the search, at most; it ends when every example is exact.
    reweighting : bool
        Whether starts are made sparser before they are judged. Without it the search is the
        paper's.
    agreement : float
        An example is marked as found if this share of the layer's units is on for it where its
        gradient is not zero, and off where it is. It is a test of consistency and no proof: a
        search that was cut short can leave an inexact example that passes it.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"images", "table"})

    samples: Iterations = 20_000
    reweighting: bool = True
    agreement: Fraction = 0.95

    def check(self, observation: Observation) -> None:
        """Refuse another first layer, and batches that it or the search is too small for."""
        units, width = first_layer(observation).joined(list(observation.target)).shape
        count = observation.num_examples
        if count >= min(units, width):
            raise AttackError(
                f"the client trained on {count} examples, and the model's first layer has {units} "
                f"units and {width - 1} inputs; expected more of each than examples"
            )
        needed, gain = expected_samples(count), GAIN if self.reweighting else 1
        if needed > gain * self.samples:
            raise AttackError(
                f"a batch of {count} needs about {needed / gain:.0e} samples, and samples = "
                f"{self.samples}; expected a smaller batch, or more samples"
            )

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Search, and solve for the examples."""
        layer, count = first_layer(observation), observation.num_examples
        gradient = layer.joined(list(observation.target))
        weight = layer.joined(list(observation.model.parameters.values()))
        number = derive_seed(seed, "spear", observation.server_round, observation.node_id)
        decomposition = decompose(gradient, count)
        inputs, agreed = self._search(decomposition, weight, torch.Generator().manual_seed(number))
        found = torch.zeros(count, dtype=torch.bool)
        found[: len(agreed)] = agreed >= self.agreement
        known = inputs[found[: len(inputs)], :-1]
        blank = torch.zeros(count, gradient.shape[1] - 1, dtype=torch.float64)
        examples = layer.examples_of(observation, blank)
        labels = torch.full((count,), -1)
        if len(known):
            examples[found] = layer.examples_of(observation, known)
        if len(known) and isinstance(observation.task, Classification):
            columns = gradient @ torch.linalg.pinv(inputs)
            labels[found] = _labels(observation, layer, known, columns[:, found[: len(inputs)]])
        source: LabelSource = "inferred" if bool((labels >= 0).any()) else "none"
        return Reconstruction(examples, labels, source, found=found)

    def _search(
        self, decomposition: Decomposition, weight: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the examples of the sparsest basis, (rank, inputs + 1), and their agreement."""
        rank = decomposition.rank
        basis = Directions(weight.new_zeros(0, rank), torch.zeros(0, dtype=torch.int64))
        inputs, agreed = weight.new_zeros(0, weight.shape[1]), weight.new_zeros(0)
        left = self.samples
        while left > 0 and not (len(agreed) and bool((agreed >= EXACT).all())):
            starts = sample(decomposition, min(left, AT_ONCE), generator)
            if self.reweighting:
                starts = reweight(decomposition, starts)
            basis = sparsest_basis(basis, settle(decomposition, starts))
            if len(basis.vectors) == rank:
                inputs = inputs_of(decomposition, basis)
                agreed = agreement(decomposition, basis, inputs, weight)
            left -= AT_ONCE
        return inputs, agreed


def _labels(observation: Observation, layer: FirstLayer, inputs: Tensor, columns: Tensor) -> Tensor:
    """Return the label whose gradient, of each example by itself, has its column's direction."""
    [unit] = observation.model.units
    parameters = observation.model.parameters
    name = observation.model.names[layer.bias]
    examples = layer.model_inputs_of(observation, inputs)
    slope = grad(lambda bias, x, y: unit.loss({**parameters, name: bias}, x, y, {}))
    labels = []
    for example, column in zip(examples, columns.T, strict=True):
        given = [
            slope(parameters[name], example[None], torch.tensor([label], device=example.device))
            for label in range(observation.classes)
        ]
        wanted = torch.stack(given).double().cpu()
        similar = (wanted @ column) / wanted.norm(dim=1).clamp_min(1e-300)
        labels.append(int(similar.argmax()))
    return torch.tensor(labels, dtype=torch.int64)
