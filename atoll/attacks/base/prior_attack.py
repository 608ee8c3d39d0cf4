"""Base class of attacks that can be given a prior by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction
from atoll.attacks.base.optimization_attack import OptimizationAttack
from atoll.attacks.generators.trained_generator import image_hashes
from atoll.attacks.optim.priors import PriorCost
from atoll.attacks.priors import PRIORS
from atoll.attacks.priors.prior import Prior
from atoll.attacks.priors.prior_files import SEEN, read_about
from atoll.attacks.threat.capabilities import ThreatModel
from atoll.attacks.threat.observation import Observation
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.ranges import Positive
from atoll.clients.sections import FilePath
from atoll.errors import AttackError

NONE = "none"


class PriorAttack(OptimizationAttack):
    """Base class of attacks with a prior, with their common settings.

    Attributes
    ----------
    prior : str
        A name in :data:`~atoll.attacks.priors.PRIORS`, ``module:Class``, or "none".
    prior_path : Path or None
        The file of a trained prior ("lpn", "diffusion"), which ``atoll train-prior`` writes.
    prior_strength : float
        Factor of the value of "total-variation" and "gaussian"; of "diffusion" the deviation of
        the noise that its proximal map takes away. The strength of "lpn" is its training's.
    """

    prior: str = NONE
    prior_path: FilePath | None = None
    prior_strength: Positive = 0.1

    @property
    def threat(self) -> ThreatModel:
        """The threat model; a prior may need public data, or that it was trained on some."""
        threat = super().threat
        return threat if self.prior == NONE else threat.with_(self._kind.needs)

    @property
    def _kind(self) -> type[Prior]:
        kind: Any = PRIORS.find(self.prior, "prior")
        if not (isinstance(kind, type) and issubclass(kind, Prior)):
            raise AttackError(
                f"prior = {self.prior!r}: is not a prior; expected a subclass of Prior"
            )
        return kind

    def check_available(self) -> None:
        """Refuse a prior that is not there."""
        super().check_available()
        needs_path = self.prior != NONE and self._kind.needs_path
        if needs_path and self.prior_path is None:
            raise AttackError(
                f"prior_path is not set; expected the file of prior = {self.prior!r}, which "
                f"'atoll train-prior DATASET --kind {self.prior} --out FILE' writes"
            )
        if self.prior_path is not None and not needs_path:
            raise AttackError(f"prior_path is set, and prior = {self.prior!r} is read from no file")
        if needs_path:
            read_about(self._path)

    def check_inputs(self, inputs: Inputs) -> None:
        """Refuse a prior of another kind of examples."""
        super().check_inputs(inputs)
        if self.prior != NONE and inputs.kind not in self._kind.kinds:
            raise AttackError(
                f"prior = {self.prior!r}: is of {', '.join(sorted(self._kind.kinds))}, and the "
                f"clients' examples are {inputs.described}"
            )

    def check(self, observation: Observation) -> None:
        """Refuse a trained prior of examples of another shape."""
        super().check(observation)
        if self.prior != NONE and self._kind.needs_path:
            self.prior_for(observation)

    def has_seen(self, observation: Observation, pixels: Tensor) -> list[bool | None]:
        """Tell which images a trained prior was trained on."""
        if self.prior == NONE or not self._kind.needs_path:
            return super().has_seen(observation, pixels)
        _, tensors = read_about(self._path)
        return list(np.isin(image_hashes(pixels.numpy()), tensors[SEEN].numpy()).tolist())

    def prior_for(self, observation: Observation) -> Prior | None:
        """Return the prior of the examples behind an update; None for "none"."""
        if self.prior == NONE:
            return None
        return self._kind.of(observation, self.prior_path, self.prior_strength)

    @property
    def _path(self) -> Path:
        assert self.prior_path is not None
        return self.prior_path


def image_cost(prior: Prior, observation: Observation) -> PriorCost:
    """Return a prior as a cost of stacks of normalised images: its value over their pixels."""

    def cost(images: Tensor) -> Tensor:
        pixels = observation.space.denormalize(images)
        values = prior.value(pixels.flatten(0, 1)) / pixels[0, 0].numel()
        return values.view(images.shape[:2]).mean(1)

    return cost


def row_cost(prior: Prior) -> PriorCost:
    """Return a prior as a cost of stacks of relaxed rows: its value over the number of cells."""

    def cost(rows: Tensor) -> Tensor:
        values = prior.value(rows.flatten(0, 1)) / rows.shape[-1]
        return values.view(rows.shape[:2]).mean(1)

    return cost


def with_prior_values(found: Sequence[Reconstruction], prior: Prior | None) -> list[Reconstruction]:
    """Return reconstructions of images with the prior's value of each image."""
    if prior is None:
        return list(found)
    valued = []
    for one in found:
        with torch.no_grad():
            valued.append(replace(one, prior=prior.value(one.examples).detach().cpu()))
    return valued
