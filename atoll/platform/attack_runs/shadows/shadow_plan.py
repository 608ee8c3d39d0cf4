"""What every shadow federation of a run has in common: all that a worker needs to run one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.attacks.membership.shadow_design import Indices, ShadowDesign, Target
from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.data.files.dataset import Dataset
from atoll.randomness import derive_seed

# By round and client: the losses of its candidates, then those of the population.
Losses = dict[tuple[int, int], NDArray[np.float64]]


@dataclass(frozen=True)
class ShadowPlan:
    """Common parts of a run's shadow federations.

    Attributes
    ----------
    spec : ClientSpec
        The victim's, with the data set in which the design's indices are places; the partition,
        and the seed, are of each shadow federation.
    strategy : Strategy
        The victim's, as it starts.
    initial : ArrayRecord
        The victim's initial model: the server made it.
    rounds : int
        Rounds that are run: to the last of which something is asked.
    server_seed : int
        Seed of the server's draws, the victim's: the server knows whom it drew.
    reduce : bool or "auto"
        ``strategy.reduce``.
    design : ShadowDesign
        Who has which examples.
    asked : frozenset[tuple[int, int]]
        Rounds and clients (partitions) whose models are asked about.
    population : NDArray[int64]
        Examples that no federation has.
    together : bool
        Whether clients of several federations train vectorised.
    """

    spec: ClientSpec
    strategy: Strategy
    initial: ArrayRecord
    rounds: int
    server_seed: int
    reduce: bool | str
    design: ShadowDesign
    asked: frozenset[tuple[int, int]]
    population: Indices
    together: bool

    def seed(self, shadow: int) -> int:
        """Return the seed of a shadow federation's clients."""
        return derive_seed(self.design.seed, "shadow", shadow)

    def spec_of(self, shadow: int, folder: Path) -> ClientSpec:
        """Return the clients of a shadow federation; their partition is written into ``folder``."""
        examples = self.design.examples(shadow)
        folder.mkdir(parents=True)
        sizes = [len(indices) for indices in examples]
        np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]))
        np.save(folder / "indices.npy", np.concatenate(examples))
        return replace(self.spec, partition=folder, seed=self.seed(shadow))

    def target_of(self, client: int) -> Target:
        """Return the target of that partition."""
        return next(target for target in self.design.targets if target.client == client)


class Questions:
    """Examples that models are asked about: a target's candidates, and the population.

    Parameters
    ----------
    plan : ShadowPlan
        The plan.
    dataset : Dataset
        Its data set.
    """

    def __init__(self, plan: ShadowPlan, dataset: Dataset) -> None:
        self._task = dataset.task
        self._examples = {
            target.client: _examples(dataset, np.concatenate([target.candidates, plan.population]))
            for target in plan.design.targets
        }

    def losses(self, model: nn.Module, client: int) -> NDArray[np.float64]:
        """Return the losses of a model that a client sent back, in evaluation mode.

        Raises
        ------
        ValueError
            If one is not finite.
        """
        inputs, labels = self._examples[client]
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        with torch.no_grad():
            outputs = model(inputs.to(device))
            losses = self._task.losses(outputs.double(), labels.to(device)).double()
        model.train(was_training)
        found: NDArray[np.float64] = losses.cpu().numpy()
        if not np.isfinite(found).all():
            raise ValueError(f"client {client + 1} sent a model whose losses are not finite")
        return found


def _examples(dataset: Dataset, indices: Indices) -> tuple[Tensor, Tensor]:
    split = dataset.train
    inputs = dataset.inputs.to_tensor(split.inputs[indices])
    return inputs, torch.from_numpy(np.array(split.labels[indices]))
