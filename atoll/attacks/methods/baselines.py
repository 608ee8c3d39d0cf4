"""Baselines that ignore the update's details: an attack must score higher."""

from __future__ import annotations

from typing import Literal

import torch

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.labels import LabelMethod, head_gradient, infer_labels
from atoll.attacks.threat.observation import Observation
from atoll.errors import AttackError
from atoll.randomness import derive_seed


class RandomImage(SeparateAttack):
    """Pixels drawn uniformly from [0, 1]."""

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Draw images."""
        own = derive_seed(seed, "random image", observation.server_round, observation.node_id)
        shape = (observation.num_images, *observation.space.shape)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(own))
        return Reconstruction(images, torch.full((len(images),), -1), "none")


class ClassMean(SeparateAttack):
    """The mean public image of each label, the labels inferred from the update or given.

    Attributes
    ----------
    labels : "inferred" or "given"
        Where the labels come from.
    label_method : str
        How they are inferred.
    """

    labels: Literal["inferred", "given"] = "inferred"
    label_method: LabelMethod = "auto"

    needs = frozenset({Capability.PUBLIC_DATA, Capability.TRAINING})

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        return ThreatModel(self.needs).with_(
            {Capability.LABELS} if self.labels == "given" else set()
        )

    def check(self, observation: Observation) -> None:
        """Refuse public images of another size, and a model whose labels cannot be inferred."""
        public = observation.public
        assert public is not None
        if len(public.images) == 0 or public.images.shape[1:] != observation.space.shape:
            raise AttackError(
                f"the public images have shape {tuple(public.images.shape)}, expected "
                f"(n > 0, {', '.join(map(str, observation.space.shape))})"
            )
        if self.labels == "inferred":
            head_gradient(observation)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Look up the means."""
        public, labels = observation.public, observation.labels
        assert public is not None
        if labels is None:
            labels = infer_labels(observation, self.label_method).cpu()
        mean = public.images.mean(0)
        images = torch.stack(
            [
                public.images[public.labels == label].mean(0)
                if bool((public.labels == label).any())
                else mean
                for label in labels
            ]
        )
        return Reconstruction(images, labels, self.labels)
