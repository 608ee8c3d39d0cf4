"""Building of a module from ``[model]``."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn

from atoll.clients.data.datasets.folder import NORMALIZATIONS
from atoll.clients.data.image_dataset import ImageDataset
from atoll.clients.models import MODELS
from atoll.clients.models.model_arguments import check_arguments
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError, UntrustedCodeError

logger = logging.getLogger("atoll")


def build_model(
    settings: ModelSettings, image_shape: tuple[int, int, int], classes: int, seed: int
) -> nn.Module:
    """Build a model; the same seed gives the same parameters.

    Parameters
    ----------
    settings : ModelSettings
        ``[model]``: a name in :data:`MODELS` or ``module:callable``, and its arguments.
    image_shape : tuple[int, int, int]
        Channels, height, width.
    classes : int
        The number of logits; a model may give one logit for two classes (a sigmoid head).
    seed : int
        Seeds the initialisation; the global generator is left as it was.

    Raises
    ------
    InvalidExperimentError
        If the model does not take an argument, refuses a value, or does not fit the images.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import ModelSettings, build_model
    >>> model = build_model(ModelSettings(name="mlp"), image_shape=(1, 8, 8), classes=10, seed=0)
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    >>> again = build_model(ModelSettings(name="mlp"), image_shape=(1, 8, 8), classes=10, seed=0)
    >>> all(map(torch.equal, model.parameters(), again.parameters()))
    True
    """
    check_arguments(settings)
    make = MODELS.find(settings.name, "model.name")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs too, which fork_rng does not give back.
        torch.default_generator.manual_seed(seed)
        try:
            model = make(image_shape=image_shape, classes=classes, **settings.arguments)
            if not isinstance(model, nn.Module):
                raise TypeError(f"it returned a {type(model).__name__}, not a torch.nn.Module")
            _check_dtypes(model)
            _check_logits(model, image_shape, classes)
        except UntrustedCodeError:
            raise
        except Exception as error:
            raise InvalidExperimentError(
                f"model.name = {settings.name!r} on images of {image_shape}: "
                f"{str(error) or type(error).__name__}"
            ) from error
    return model


def zero_logits(model: nn.Module, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """Return the outputs for two images of zeros; the model stays as it is."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(torch.zeros(2, *image_shape))
    model.train(was_training)
    return logits


def warn_of_other_normalization(model: nn.Module, dataset: ImageDataset) -> None:
    """Say so if pretrained weights expect images normalised otherwise than the data set's are."""
    wanted = getattr(model, "normalization", None)
    expected = None if wanted is None else NORMALIZATIONS[wanted]
    if expected is not None and not np.allclose(expected, [dataset.mean, dataset.std]):
        logger.warning(
            "the model's weights expect images normalised as %r, and those of %s are not: its "
            "features are worth less (data.options.normalization = %r mends it for folders)",
            wanted,
            dataset.name,
            wanted,
        )


def _check_dtypes(model: nn.Module) -> None:
    """Refuse dtypes that NumPy, and so Flower's arrays, lack: bfloat16 and float8."""
    for name, values in model.state_dict().items():
        try:
            torch.empty(0, dtype=values.dtype).numpy()
        except TypeError:
            raise ValueError(
                f"its {name!r} is of {str(values.dtype).removeprefix('torch.')}, which Flower's "
                "arrays do not hold; expected float32 or float16 (arithmetic within the model may "
                "be of any kind)"
            ) from None


def _check_logits(model: nn.Module, image_shape: tuple[int, int, int], classes: int) -> None:
    logits = zero_logits(model, image_shape)
    if logits.shape != (2, classes) and not (classes == 2 and logits.shape == (2, 1)):
        raise ValueError(
            f"it gives outputs of shape {tuple(logits.shape)}, expected (2, {classes})"
        )
