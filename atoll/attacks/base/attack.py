"""Base class of attacks: checked settings, a declared threat model, a run on observations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from atoll.attacks.base.attack_names import attacks_on
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import Observation
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.settings import Section
from atoll.errors import AttackError
from atoll.extras import require

LabelSource = Literal["inferred", "given", "optimised", "none"]
# Told how many steps of how many are done.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Stage:
    """Result of one stage of an attack.

    Attributes
    ----------
    name : str
        Name of the stage.
    images : Tensor
        Shape (n, channels, height, width), in [0, 1].
    cost : float
        The matching cost alone, without priors.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Stage
    >>> images = torch.zeros(1, 1, 8, 8)
    >>> stages = [Stage("latent", images, 0.5), Stage("layer 1", images, 0.1)]
    >>> min(stages, key=lambda stage: stage.cost).name
    'layer 1'
    """

    name: str
    images: Tensor
    cost: float


@dataclass(frozen=True)
class Reconstruction:
    """Result of an attack on one observation.

    Attributes
    ----------
    examples : Tensor
        In no particular order. Images: float32, shape (n, channels, height, width), in [0, 1].
        Rows of a table and tokens: as they are stored, shape (n, columns) or (n, length).
    labels : Tensor
        int64, shape (n,): the label that goes with each example; -1 where the attack has none.
    label_source : str
        Source of the labels: "given", "inferred" (from the update, before the attack),
        "optimised" (together with the examples) or "none".
    cost : float
        The matching cost of the examples, without priors; NaN for an attack without one. Restarts
        and stages are chosen by it.
    cost_path : Tensor
        The matching cost over the steps of the chosen restart; empty where there are no steps.
    restart : int
        Index of the chosen restart, from 0.
    stages : tuple[Stage, ...]
        For staged attacks: the chosen restart's best images at each stage, so that the oracle's
        choice can be reported beside the attack's own.
    found : Tensor or None
        bool, shape (n,): for attacks that recover some examples and know which; the others are
        blank.
    entropy : Tensor or None
        float64, shape (n, columns): for attacks that tell how uncertain they are of each cell.
    prior : Tensor or None
        Shape (n,): for attacks with a prior by name, its value of each example.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Reconstruction
    >>> found = Reconstruction(torch.zeros(2, 1, 8, 8), torch.tensor([3, 7]), "inferred", cost=0.02)
    >>> found.cost, found.restart, found.stages
    (0.02, 0, ())
    """

    examples: Tensor
    labels: Tensor
    label_source: LabelSource
    cost: float = float("nan")
    cost_path: Tensor = field(default_factory=lambda: torch.empty(0))
    restart: int = 0
    stages: tuple[Stage, ...] = ()
    found: Tensor | None = None
    entropy: Tensor | None = None
    prior: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """The examples, where they are images."""
        return self.examples


def ignore_progress(done: int, total: int) -> None:
    """Ignore progress: the default callback."""


class Attack(Section, ABC):
    """An attack with its settings; a subclass is registered in :data:`atoll.attacks.ATTACKS`.

    Its fields are what ``--set`` can change. It is immutable, and one object can attack any number
    of observations.

    Examples
    --------
    >>> from atoll.attacks import ATTACKS, Attack
    >>> attack = ATTACKS.find("inverting-gradients", "attack")(steps=10)
    >>> isinstance(attack, Attack), str(attack.threat)
    (True, 'informed eavesdropper (training)')
    """

    # What the attack needs, whatever its settings.
    needs: ClassVar[frozenset[Capability]] = frozenset()
    # Kinds of inputs that it reconstructs.
    kinds: ClassVar[frozenset[str]] = frozenset({"images"})

    @property
    def threat(self) -> ThreatModel:
        """The threat model; settings may add to what the attack needs."""
        return ThreatModel(self.needs)

    def check_available(self) -> None:
        """Refuse an attack that lacks a package, or what its settings name, a generator say.

        Raises
        ------
        AtollError
            Saying what is missing.
        """
        require("scipy", what="an attack")

    def check_inputs(self, inputs: Inputs) -> None:
        """Refuse examples of a kind that the attack does not reconstruct.

        Raises
        ------
        AttackError
            With the kind, and attacks that are of it.
        """
        if inputs.kind not in self.kinds:
            own = ", ".join(sorted(self.kinds))
            raise AttackError(
                f"{type(self).__name__} reconstructs {own}, and the clients' examples are "
                f"{inputs.described}; expected an attack on {inputs.kind}: "
                f"{', '.join(attacks_on(inputs.kind))}"
            )

    def check(self, observation: Observation) -> None:
        """Refuse an observation that the attack cannot be run on, before anything is computed.

        Raises
        ------
        AttackError
            Saying what is missing.
        """

    def has_seen(self, observation: Observation, pixels: Tensor) -> list[bool | None]:
        """Tell which images were among those that the attacker's generator was trained on.

        It is for reports only: a reconstruction of such an image proves nothing.

        Parameters
        ----------
        pixels : Tensor
            uint8, shape (n, height, width, channels): the truth.

        Returns
        -------
        list[bool or None]
            One an image; None if that is not known, or there is no generator.
        """
        return [None] * len(pixels)

    @abstractmethod
    def run(
        self,
        observations: Sequence[Observation],
        *,
        seed: int = 0,
        progress: Progress = ignore_progress,
    ) -> list[Reconstruction]:
        """Attack observations of one federation.

        Parameters
        ----------
        observations : Sequence[Observation]
            Each made with :attr:`threat`.
        seed : int
            One seed, one result; a victim's random numbers depend on the seed and on its round and
            node alone.
        progress : Progress
            Told of steps.

        Returns
        -------
        list[Reconstruction]
            One an observation, in order.
        """

    def run_checked(
        self,
        observations: Sequence[Observation],
        *,
        seed: int = 0,
        progress: Progress = ignore_progress,
    ) -> list[Reconstruction]:
        """Check every observation, then :meth:`run`.

        Raises
        ------
        AttackError
            If an observation lacks something, or was granted other capabilities than declared.
        """
        for observation in observations:
            if observation.threat != self.threat:
                raise AttackError(
                    f"{type(self).__name__} declares {self.threat}, and {observation.name} was "
                    f"observed as {observation.threat}; expected the same"
                )
            self.check_inputs(observation.inputs)
            self.check(observation)
        return self.run(observations, seed=seed, progress=progress)


class SeparateAttack(Attack):
    """An attack that makes each reconstruction by itself, without optimising many at once.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Reconstruction, SeparateAttack, example_victim, observe
    >>> class Grey(SeparateAttack):
    ...     '''Grey images: a baseline that uses nothing of the update.'''
    ...
    ...     def reconstruct(self, observation, seed):
    ...         images = torch.full((observation.num_images, *observation.space.shape), 0.5)
    ...         return Reconstruction(images, torch.full((len(images),), -1), "none")
    >>> attack = Grey()
    >>> [found] = attack.run_checked([observe(example_victim().capture, attack.threat)])
    >>> found.images.shape, str(attack.threat)
    (torch.Size([1, 1, 8, 8]), 'eavesdropper')
    """

    def run(
        self,
        observations: Sequence[Observation],
        *,
        seed: int = 0,
        progress: Progress = ignore_progress,
    ) -> list[Reconstruction]:
        """Attack one observation after another."""
        results = []
        for done, observation in enumerate(observations, start=1):
            results.append(self.reconstruct(observation, seed))
            progress(done, len(observations))
        return results

    @abstractmethod
    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Attack one observation."""
