"""Base class of staged generators: the input of each stage can be optimised.

A generator is a chain of parts G_0 .. G_{N-1}: G_k turns what stage k optimises into what stage
k + 1 does, and the last part makes images. GIFD (Fang et al., 2023, arXiv 2308.04699, section 3)
optimises one stage after the other, each from where the one before has led.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Generator as RandomState
from torch import Tensor, nn

from atoll.errors import InvalidExperimentError


@dataclass(frozen=True)
class Features:
    """Features between two stages of a generator, for n images.

    Attributes
    ----------
    free : Mapping[str, Tensor]
        Tensors that a stage optimises, by name, each of shape (n, ...).
    fixed : Mapping[str, Tensor]
        Tensors that later parts need (a class's embedding, the image so far), of shape (n, ...).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Features
    >>> features = Features(free={"latent": torch.zeros(2, 16)}, fixed={"class": torch.zeros(2, 4)})
    >>> features.free["latent"].shape
    torch.Size([2, 16])
    """

    free: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor] = field(default_factory=dict)


class StagedGenerator(nn.Module, ABC):
    """A generator of images in [0, 1] whose stages can be optimised one by one.

    Images do not depend on each other, and nothing is random but :meth:`init`.

    Attributes
    ----------
    stages : int
        Number of stages; stage 0 is the latent.
    image_shape : tuple[int, int, int]
        Channels, height, width.
    classes : int or None
        Number of classes; None if labels make no difference.
    spherical : frozenset[str]
        The free tensors whose distribution has its mass near a sphere, as a normal one has: an
        attack may hold them there.
    bounded_from_start : frozenset[str]
        The free tensors of stage 0 that an attack with an l1 ball keeps in one at that stage too.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll.attacks import Features, StagedGenerator
    >>> class Linear(StagedGenerator):
    ...     '''One linear layer: a latent stage, and no other.'''
    ...
    ...     stages, image_shape = 1, (1, 4, 4)
    ...
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.Linear(8, 16)
    ...
    ...     def init(self, labels, random):
    ...         return Features({"latent": torch.randn(len(labels), 8, generator=random)})
    ...
    ...     def advance(self, stage, features):
    ...         raise NotImplementedError("there is one stage")
    ...
    ...     def finish(self, features):
    ...         return torch.sigmoid(self.layer(features.free["latent"])).view(-1, 1, 4, 4)
    >>> Linear().sample(torch.zeros(3).long(), torch.Generator().manual_seed(0)).shape
    torch.Size([3, 1, 4, 4])
    """

    stages: int
    image_shape: tuple[int, int, int]
    classes: int | None = None
    spherical: frozenset[str] = frozenset({"latent"})
    bounded_from_start: frozenset[str] = frozenset()

    @abstractmethod
    def init(self, labels: Tensor, random: RandomState) -> Features:
        """Draw the features of stage 0.

        Parameters
        ----------
        labels : Tensor
            int64, shape (n,), in 0 .. ``classes`` - 1: what the images are to show. A generator
            without classes looks at their number only.
        random : torch.Generator
            On the CPU, wherever the labels are.
        """

    @abstractmethod
    def advance(self, stage: int, features: Features) -> Features:
        """Return the features of stage ``stage + 1``, given those of ``stage``."""

    @abstractmethod
    def finish(self, features: Features) -> Tensor:
        """Return the images, given the features of the last stage."""

    def decode(self, stage: int, features: Features) -> Tensor:
        """Return the images that the features of a stage lead to.

        Returns
        -------
        Tensor
            Shape (n, channels, height, width). Values may lie a little outside [0, 1]: they are
            not clipped, so that their gradient is not lost.
        """
        for k in range(stage, self.stages - 1):
            features = self.advance(k, features)
        return self.finish(features)

    def forward(self, stage: int, features: Features) -> Tensor:
        """Return :meth:`decode`, for ``torch.func.functional_call`` with other weights."""
        return self.decode(stage, features)

    def sample(self, labels: Tensor, random: RandomState) -> Tensor:
        """Return images drawn from the generator, one for each label."""
        return self.decode(0, self.init(labels, random))

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse to stand for images of another size, or of more classes than it knows.

        Raises
        ------
        InvalidExperimentError
            With what it makes and what was wanted.
        """
        if self.image_shape != image_shape:
            made, wanted = ("x".join(map(str, shape)) for shape in (self.image_shape, image_shape))
            raise InvalidExperimentError(
                f"the generator makes images of {made}, and the victims' are {wanted}; expected a "
                "generator of that size, or 'resize = true' for one of as many channels"
            )
        if self.classes is not None and self.classes < classes:
            raise InvalidExperimentError(
                f"the generator knows {self.classes} classes, and the victims' labels are in 0 .. "
                f"{classes - 1}; expected a generator of at least as many classes"
            )
