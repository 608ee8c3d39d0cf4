"""Groups: observations of one broadcast model, attacked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from atoll.attacks.base.attack import LabelSource
from atoll.attacks.optim.matching import Targets
from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.clients.training.optimizers import EPSILON
from atoll.randomness import derive_seed

NoiseSource = Literal["optimised", "drawn", "given"]


@dataclass(frozen=True)
class Group:
    """Observations of one broadcast model, attacked together.

    Attributes
    ----------
    observations : tuple[Observation, ...]
        The victims.
    restarts : int
        Candidates a victim; candidates are stacked victim by victim.
    labels : Tensor
        int64, shape (victims * restarts, n): of each candidate.
    label_source : str
        Source of the labels.
    seed : int
        The attack's.
    noise_source : "optimised", "drawn" or "given"
        How the clients' own random draws are treated.
    adam_epsilon : float
        Adam's epsilon in the simulation of clients that train with it.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Group, ThreatModel, example_victim, observe
    >>> victims = [example_victim(seed=seed) for seed in (0, 1)]
    >>> observations = tuple(observe(victim.capture, ThreatModel()) for victim in victims)
    >>> labels = torch.zeros(6, 1).long()
    >>> group = Group(observations, restarts=3, labels=labels, label_source="given", seed=0)
    >>> group.candidates, group.image_noise.shape
    (6, torch.Size([6, 1, 1, 8, 8]))
    """

    observations: tuple[Observation, ...]
    restarts: int
    labels: Tensor
    label_source: LabelSource
    seed: int
    noise_source: NoiseSource = "optimised"
    adam_epsilon: float = EPSILON

    @property
    def first(self) -> Observation:
        """The first observation, for what all of them share."""
        return self.observations[0]

    @property
    def simulation(self) -> ClientSimulation:
        """The simulation of a client."""
        return ClientSimulation.of(self.first, adam_epsilon=self.adam_epsilon)

    @property
    def candidates(self) -> int:
        """The number of candidates."""
        return len(self.observations) * self.restarts

    @property
    def targets(self) -> Targets:
        """The observed update of each candidate: per parameter, ``(candidates, *shape)``."""
        updates = zip(*(observation.target for observation in self.observations), strict=True)
        return Targets(torch.stack(some).repeat_interleave(self.restarts, 0) for some in updates)

    def generators(self, phase: str) -> list[torch.Generator]:
        """Return one generator a candidate; its numbers depend on seed, victim and restart only."""
        return [
            torch.Generator().manual_seed(
                derive_seed(self.seed, phase, o.server_round, o.node_id, restart)
            )
            for o in self.observations
            for restart in range(self.restarts)
        ]

    def noise(self, *shape: int, phase: str = "start") -> Tensor:
        """Return standard normal numbers: shape ``(candidates, *shape)``."""
        drawn = [torch.randn(shape, generator=g) for g in self.generators(phase)]
        return torch.stack(drawn).to(self.first.model.device)

    @property
    def client_noise(self) -> Tensor | None:
        """Initial guess of the clients' draws, (candidates, unknowns); None if all are known."""
        unknowns = self.simulation.unknowns
        return self.noise(unknowns, phase="client noise") if unknowns else None

    def into_box(self, values: list[Tensor]) -> None:
        """Put normalised images, the first of the variables, back to pixels in [0, 1]."""
        values[0].copy_(self.first.space.clip(values[0]))

    @property
    def image_noise(self) -> Tensor:
        """A start of normalised images: (candidates, n, channels, height, width)."""
        return self.noise(self.first.num_images, *self.first.space.shape)
