"""Base class of attacks with a generator: its choice, and its features as stacks of candidates.

A generator sees rows: the images of all candidates one after another. Attacks vary stacks, of shape
(candidates, n, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import Decode, OptimizationAttack
from atoll.attacks.generators.generator_loading import fitted, load_generator
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.attacks.generators.trained_generator import GeneratorSettings, TrainedGenerator
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.clients.sections import FilePath


class GeneratorAttack(OptimizationAttack):
    """Base class of attacks with a generator, with their common settings.

    Attributes
    ----------
    generator : str
        A data set's name (the generator that ``atoll train-generator`` trained on it), the folder
        of one of these, a name in :data:`~atoll.attacks.generators.GENERATORS`, or
        ``module:callable``.
    generator_path : Path or None
        Where its weights are.
    generator_settings : GeneratorSettings
        Of a data set's generators, how the wanted one was trained.
    resize : bool
        Whether its images are resized to the victims' size, averaging over areas.
    """

    generator: str
    generator_path: FilePath | None = None
    generator_settings: GeneratorSettings = GeneratorSettings()
    resize: bool = False

    needs = frozenset({Capability.TRAINING, Capability.GENERATOR})

    def check_available(self) -> None:
        """Refuse a generator that is not there."""
        super().check_available()
        load_generator(self.generator, self.generator_path, wanted=self.generator_settings)

    def check(self, observation: Observation) -> None:
        """Refuse a client that cannot be simulated, and a generator of other images."""
        super().check(observation)
        self.generator_for(observation).check(observation.space.shape, observation.classes)

    def has_seen(self, observation: Observation, pixels: Tensor) -> list[bool | None]:
        """Tell which images the generator was trained on, where it knows."""
        generator = self.generator_for(observation)
        if not isinstance(generator, TrainedGenerator):
            return super().has_seen(observation, pixels)
        return list(generator.has_seen(pixels.numpy()).tolist())

    def generator_for(self, observation: Observation) -> StagedGenerator:
        """Return the generator, on the observation's device."""
        device = observation.model.device
        generator = load_generator(
            self.generator, self.generator_path, device, self.generator_settings
        )
        return fitted(generator, observation.space.shape) if self.resize else generator


def draw(generator: StagedGenerator, group: Group) -> Features:
    """Draw features of stage 0 for every candidate, each by its own random state, as rows."""
    drawn = [
        generator.init(labels, random)
        for labels, random in zip(group.labels, group.generators("latent"), strict=True)
    ]
    return Features(
        {name: torch.cat([one.free[name] for one in drawn]) for name in drawn[0].free},
        {name: torch.cat([one.fixed[name] for one in drawn]) for name in drawn[0].fixed},
    )


def stack(features: Features, group: Group) -> list[Tensor]:
    """Return the free features of rows as stacks, (candidates, n, ...)."""
    return [_by_candidate(rows, group) for rows in features.free.values()]


def unstack(values: Sequence[Tensor], features: Features) -> Features:
    """Return ``features`` with stacks in the place of its free ones."""
    rows = (value.flatten(0, 1) for value in values)
    return Features(dict(zip(features.free, rows, strict=True)), features.fixed)


def split(features: Features, group: Group) -> list[Features]:
    """Return the rows of each candidate."""
    size = group.first.num_images
    parts = []
    for start in range(0, group.candidates * size, size):
        rows = slice(start, start + size)
        parts.append(
            Features(
                {name: tensor[rows] for name, tensor in features.free.items()},
                {name: tensor[rows] for name, tensor in features.fixed.items()},
            )
        )
    return parts


def decoder(generator: StagedGenerator, stage: int, features: Features, group: Group) -> Decode:
    """Return the function from stacks of a stage's free tensors to normalised images."""
    space = group.first.space

    def decode(values: list[Tensor]) -> Tensor:
        images = generator.decode(stage, unstack(values, features))
        return _by_candidate(space.normalize(images), group)

    return decode


def _by_candidate(rows: Tensor, group: Group) -> Tensor:
    return rows.reshape(*group.labels.shape, *rows.shape[1:])
