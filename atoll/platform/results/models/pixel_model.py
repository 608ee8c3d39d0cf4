"""A run's model with its preprocessing: pixels in [0, 1] in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.data.files.dataset import Split
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.kinds import AnyTask
from atoll.errors import DataUnavailableError
from atoll.platform.results.models.prepared_model import PreparedModel

# A deviation of a channel that is the same everywhere; as training has it.
LEAST_DEVIATION = 1e-6
# Pixels are rounded where they were resized or decoded.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class InputFormat:
    """What a model is given and tells apart.

    Attributes
    ----------
    image_shape : tuple[int, int, int]
        Channels, height and width.
    classes : tuple[str, ...]
        Names of the labels.
    mean, std : tuple[float, ...]
        Per channel, in units of [0, 1]: what images are normalised by.
    other_task : Task or None
        What is predicted, where it is not one of the classes.

    Examples
    --------
    >>> from atoll import InputFormat
    >>> InputFormat((1, 28, 28), tuple("0123456789"), mean=(0.13,), std=(0.31,)).image_shape
    (1, 28, 28)
    """

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    other_task: AnyTask | None = None

    @classmethod
    def of(cls, inputs: ImageInputs, task: AnyTask) -> InputFormat:
        """Return the format of images with any task."""
        other = None if isinstance(task, Classification) else task
        return cls(inputs.image_shape, task.class_names, inputs.mean, inputs.std, other)

    @property
    def inputs(self) -> ImageInputs:
        """The same as a model's inputs."""
        return ImageInputs(image_shape=self.image_shape, mean=self.mean, std=self.std)

    @property
    def task(self) -> AnyTask:
        """What is predicted: one of the classes, or ``other_task``."""
        return self.other_task or Classification(classes=self.classes)


class PixelModel(PreparedModel):
    """A run's network behind its normalisation.

    Parameters
    ----------
    network : nn.Module
        The network, with a run's parameters; it is put into evaluation mode.
    inputs : InputFormat
        What it is given.

    Attributes
    ----------
    network : nn.Module
        The network alone: it expects normalised images.
    inputs : InputFormat
        What it is given, and the names of its classes.
    scale, shift : Tensor
        Buffers of shape (1, channels, 1, 1): what pixels are multiplied by, and what is added.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll import InputFormat, PixelModel
    >>> inputs = InputFormat((1, 8, 8), ("even", "odd"), mean=(0.5,), std=(0.25,))
    >>> model = PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), inputs)
    >>> model(torch.rand(3, 1, 8, 8)).shape, model.training
    (torch.Size([3, 2]), False)
    """

    input_name = "pixels"
    output_name = "logits"
    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, inputs: InputFormat) -> None:
        super().__init__(network, inputs)
        self.inputs = inputs
        mean = torch.tensor(inputs.mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(inputs.std, dtype=torch.float64).view(1, -1, 1, 1)
        std = std.clamp_min(LEAST_DEVIATION)
        self.register_buffer("scale", (1 / std).float().to(self.device))
        self.register_buffer("shift", (-mean / std).float().to(self.device))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits of pixels in [0, 1], shape (n, channels, height, width)."""
        logits: Tensor = self.network(pixels * self.scale + self.shift)
        return logits

    def tensor_of(self, examples: Any) -> Tensor:
        """Return pixels in [0, 1]; what examples may be is said by :func:`pixels_of`."""
        return pixels_of(examples, self.inputs)

    def example(self, count: int) -> Tensor:
        """Return grey images."""
        return torch.full((count, *self.inputs.image_shape), 0.5)

    def described(self) -> dict[str, Any]:
        """Return the shape of the images, and how they are normalised."""
        return {
            "image_shape": list(self.inputs.image_shape),
            "preprocessing": {
                "input": "pixels in [0, 1], float32, shape (n, channels, height, width)",
                "mean": list(self.inputs.mean),
                "std": list(self.inputs.std),
            },
        }

    def preprocessing_tensors(self) -> dict[str, Tensor]:
        """Return mean and standard deviation by channel."""
        return {"mean": torch.tensor(self.inputs.mean), "std": torch.tensor(self.inputs.std)}

    def check_split(self, split: Split) -> None:
        """Refuse images of another shape."""
        expected, found = self.inputs.inputs.stored_shape, split.inputs.shape[1:]
        if found != expected:
            raise DataUnavailableError(
                f"images are of shape {found}; expected {expected} (height, width, channels), as "
                "in training"
            )


def pixels_of(examples: Any, inputs: InputFormat) -> Tensor:
    """Return examples as a model with its preprocessing takes them.

    Parameters
    ----------
    examples : NDArray, Tensor, Split or a sequence of these
        Images: bytes from 0 to 255, or floating-point numbers from 0 to 1. A tensor has the
        channels first; an array has them first or last. One image alone has one dimension less.
    inputs : InputFormat
        What the model is given.

    Returns
    -------
    Tensor
        float32 in [0, 1], shape (n, channels, height, width).

    Raises
    ------
    DataUnavailableError
        If shapes or values are others.
    """
    if isinstance(examples, Split):
        examples = examples.images
    if isinstance(examples, Sequence) and not isinstance(examples, str):
        parts = [pixels_of(example, inputs) for example in examples]
        return torch.cat(parts) if parts else torch.zeros(0, *inputs.image_shape)
    if isinstance(examples, Tensor):
        images = examples.detach().cpu()
    elif isinstance(examples, np.ndarray):
        images = torch.from_numpy(_channels_first(examples, inputs.image_shape))
    else:
        raise DataUnavailableError(
            f"examples are of type {type(examples).__name__}; expected NumPy arrays, tensors or a "
            "data set's Split"
        )
    if tuple(images.shape) == inputs.image_shape:
        images = images.unsqueeze(0)
    if images.ndim != 4 or tuple(images.shape[1:]) != inputs.image_shape:
        raise DataUnavailableError(
            f"examples have the shape {tuple(examples.shape)}; expected (n, channels, height, "
            f"width) with images of {inputs.image_shape}"
        )
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise DataUnavailableError(
            f"examples are of {images.dtype}; expected uint8 (0 to 255) or floating point (0 to 1)"
        )
    low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise DataUnavailableError(
            f"examples have values from {low:.4g} to {high:.4g}; expected pixels from 0 to 1, not "
            "normalised (the model does that itself), or uint8"
        )
    return images.float()


def _channels_first(images: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return an array with its channels before height and width; others are left as they are."""
    channels, height, width = shape
    if channels == 1 and images.shape[-2:] == (height, width) and images.ndim in (2, 3):
        is_one_first = images.shape[0] == 1 and images.ndim == 3
        images = images if is_one_first else images[..., None, :, :]
    elif images.ndim in (3, 4) and images.shape[-3:] == (height, width, channels):
        images = np.moveaxis(images, -1, -3)
    # A data set's images are mapped, and PyTorch wants arrays that could be written to.
    return np.array(images, order="C")
