"""Backdoors with a trigger of pixels: images that have it are to be classed as the target."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from atoll.attacks.poisoning.example_poison import Class, ExamplePoison, SomeShare, check_class
from atoll.attacks.poisoning.poison import classes_of
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.ranges import Pixels, Positive


class Backdoor(ExamplePoison):
    """Images with a trigger, labelled as the target.

    The success is the share of test images of other classes that are classed as the target when
    they have the trigger.

    Attributes
    ----------
    target : int
        The class that the attacker wants.
    poison_share : float
        The share of a client's examples that get the trigger and the label.

    Examples
    --------
    >>> from atoll.attacks import Backdoor, PixelBackdoor
    >>> issubclass(PixelBackdoor, Backdoor), PixelBackdoor(nodes=(1,), target=3).target
    (True, 3)
    """

    has_goal: ClassVar[bool] = True

    target: Class = 0
    poison_share: SomeShare = 0.5

    @abstractmethod
    def stamp(self, images: Tensor, white: Tensor, part: int | None) -> Tensor:
        """Return images with the trigger.

        Parameters
        ----------
        images : Tensor
            Shape (n, channels, height, width), normalised.
        white : Tensor
            Shape (channels, 1, 1): a white pixel, normalised.
        part : int or None
            Which part of the trigger; None for all of it.
        """

    @abstractmethod
    def extent(self) -> tuple[int, int]:
        """Return how many rows and columns the trigger reaches over."""

    def part_of(self, node: int) -> int | None:
        """Return which part of the trigger a node uses; None for all of it."""
        return None

    def change(
        self, inputs: Tensor, labels: Tensor, generator: torch.Generator, node: int
    ) -> tuple[Tensor, Tensor]:
        """Stamp a share of the images, drawn at random, and label them as the target."""
        count = max(1, round(self.poison_share * len(labels))) if len(labels) else 0
        chosen = torch.randperm(len(labels), generator=generator)[:count].to(labels.device)
        inputs, labels = inputs.clone(), labels.clone()
        white = white_pixel(self.data()).to(inputs)
        inputs[chosen] = self.stamp(inputs[chosen], white, self.part_of(node))
        labels[chosen] = self.target
        return inputs, labels

    def aims(self, data: Dataset, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the images of other classes."""
        others: NDArray[np.int64] = indices[data.test.labels[indices] != self.target]
        return others

    def goal(self, data: Dataset, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return images with the whole trigger, and the target."""
        images = data.inputs.to_tensor(data.test.inputs[chosen])
        stamped = self.stamp(images, white_pixel(data).to(images), None)
        return stamped, torch.full((len(chosen),), self.target)

    def check_data(self, data: Dataset, model: nn.Module) -> None:
        """Refuse data that are no images, and a class or a trigger that they have no place for."""
        check_class("target", self.target, classes_of(data))
        if not isinstance(data.inputs, ImageInputs):
            raise ValueError(f"its trigger is of pixels, and inputs are {data.inputs.described}")
        rows, columns = self.extent()
        _, height, width = data.inputs.shape
        if rows > height or columns > width:
            raise ValueError(
                f"its trigger of {rows}x{columns} pixels is larger than images of {height}x{width}"
            )


class PixelBackdoor(Backdoor):
    """White square in the lower right corner of images (Gu et al., 2017, "BadNets").

    Attributes
    ----------
    size : int
        Of the square's side, in pixels.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import PixelBackdoor
    >>> white = torch.ones(1, 1, 1)
    >>> PixelBackdoor(nodes=(1,), size=1).stamp(torch.zeros(1, 1, 2, 2), white, None)
    tensor([[[[0., 0.],
              [0., 1.]]]])
    """

    name: ClassVar[str] = "pixel-backdoor"

    size: Pixels = 3

    def stamp(self, images: Tensor, white: Tensor, part: int | None) -> Tensor:
        """Return images with the square."""
        stamped = images.clone()
        stamped[:, :, -self.size :, -self.size :] = white
        return stamped

    def extent(self) -> tuple[int, int]:
        """Return the square's sides."""
        return self.size, self.size


class ModelReplacement(PixelBackdoor):
    """Backdoor whose update is scaled up to replace the mean (Bagdasaryan et al., 2020, eq. 3).

    With a ``boost`` of n / k, k clients that send the same update, among n whose other updates
    cancel, make the mean theirs.

    Attributes
    ----------
    boost : float or None
        The factor; by default the number of clients by that of the attacker's. In federations
        that sample clients, give it by the cohort's.

    Examples
    --------
    >>> from atoll.attacks import ModelReplacement
    >>> ModelReplacement(nodes=(1, 2)).boost is None
    True
    """

    name: ClassVar[str] = "model-replacement"

    boost: Annotated[Positive | None, Field(examples=[10.0])] = None


class DistributedBackdoor(Backdoor):
    """Trigger of four bars, of which each attacker's client uses one (Xie et al., 2020, "DBA").

    The bars are in the upper left corner, two beside each other in two rows. The attacker's
    clients use them in turn, in the order of ``nodes``; the test images have all four.

    Attributes
    ----------
    length : int
        Of a bar, in pixels; it is one pixel high.
    gap : int
        Pixels between bars, in both directions.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import DistributedBackdoor
    >>> attack = DistributedBackdoor(nodes=(3, 7), length=1, gap=1)
    >>> attack.stamp(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 1), None)[0, 0]
    tensor([[1., 0., 1.],
            [0., 0., 0.],
            [1., 0., 1.]])
    >>> attack.part_of(7)
    1
    """

    name: ClassVar[str] = "distributed-backdoor"

    length: Pixels = 2
    gap: Pixels = 1

    def part_of(self, node: int) -> int | None:
        """Return the bar of a node."""
        return self.nodes.index(node) % 4

    def stamp(self, images: Tensor, white: Tensor, part: int | None) -> Tensor:
        """Return images with one bar, or all."""
        stamped = images.clone()
        for bar in range(4) if part is None else (part,):
            row, column = divmod(bar, 2)
            start = column * (self.length + self.gap)
            stamped[:, :, row * (1 + self.gap), start : start + self.length] = white[..., 0]
        return stamped

    def extent(self) -> tuple[int, int]:
        """Return the rows and columns of the four bars."""
        return 2 + self.gap, 2 * self.length + self.gap


def white_pixel(data: Dataset) -> Tensor:
    """Return a white pixel as a model is given it, shape (channels, 1, 1)."""
    return data.inputs.to_tensor(np.full((1, 1, 1, data.inputs.shape[0]), 255, np.uint8))[0]
