"""Inputs that are images."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.ranges import Pixels


class ImageInputs(Inputs):
    """Images: stored as uint8 (height, width, channels), given as normalised float32.

    Attributes
    ----------
    image_shape : tuple[int, int, int]
        Channels, height, width.
    mean, std : tuple[float, ...]
        Per channel, in units of [0, 1]: what images are normalised by.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import ImageInputs
    >>> inputs = ImageInputs(image_shape=(1, 2, 2), mean=(0.5,), std=(0.25,))
    >>> inputs.to_tensor(np.full((1, 2, 2, 1), 255, np.uint8)).unique()
    tensor([2.0000])
    """

    kind: Literal["images"] = "images"
    image_shape: Annotated[tuple[Pixels, Pixels, Pixels], Field(strict=False)]
    mean: Annotated[tuple[float, ...], Field(strict=False)]
    std: Annotated[tuple[float, ...], Field(strict=False)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.image_shape

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        channels, height, width = self.image_shape
        return height, width, channels

    @property
    def stored_dtype(self) -> type[np.generic]:
        """Unsigned bytes."""
        return np.uint8

    def to_tensor(self, stored: NDArray[np.uint8]) -> Tensor:
        """Return images normalised by channel: float32, (n, channels, height, width)."""
        return to_tensor(stored, self.mean, self.std)

    @property
    def described(self) -> str:
        """The kind and the shape."""
        return f"images of {'x'.join(map(str, self.image_shape))}"


def images_of(shape: tuple[int, int, int]) -> ImageInputs:
    """Return images of a shape (channels, height, width) that are not normalised."""
    channels = shape[0]
    return ImageInputs(image_shape=shape, mean=(0.0,) * channels, std=(1.0,) * channels)
