"""Building of a module from ``[model]``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from atoll.clients.data.datasets.folder import NORMALIZATIONS
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.images import ImageInputs, images_of
from atoll.clients.models import MODELS
from atoll.clients.models.adapters import with_adapters
from atoll.clients.models.model_arguments import check_arguments
from atoll.clients.models.weights.compander import with_compander
from atoll.clients.models.weights.masks import with_masks
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.classification import Classification, classes_of
from atoll.clients.tasks.task import Task
from atoll.errors import InvalidExperimentError, UntrustedCodeError
from atoll.randomness import derive_seed

logger = logging.getLogger("atoll")

# What models of images take.
OF_IMAGES = ("image_shape", "classes")


def build_model(
    settings: ModelSettings,
    inputs: Inputs | tuple[int, int, int],
    task: Task | int,
    seed: int,
) -> nn.Module:
    """Build a model; the same seed gives the same parameters.

    What makes the model is called with those of these arguments that its signature has:
    ``inputs``, ``outputs`` (their number) and ``task``, unless ``[model]`` sets them; and for
    images and their classes ``image_shape`` and ``classes``.

    Parameters
    ----------
    settings : ModelSettings
        ``[model]``: a name in :data:`MODELS` or ``module:callable``, and its arguments.
    inputs : Inputs or tuple[int, int, int]
        What the model is given; channels, height and width stand for images of that shape.
    task : Task or int
        What it predicts; a number stands for the classification into so many classes.
    seed : int
        Seeds the initialisation; the global generator is left as it was.

    Raises
    ------
    InvalidExperimentError
        If the model does not take an argument, refuses a value, or does not fit inputs or task.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import ModelSettings, build_model
    >>> model = build_model(ModelSettings(name="mlp"), (1, 8, 8), 10, seed=0)
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    >>> again = build_model(ModelSettings(name="mlp"), (1, 8, 8), 10, seed=0)
    >>> all(map(torch.equal, model.parameters(), again.parameters()))
    True
    """
    check_arguments(settings)
    make = MODELS.find(settings.name, "model.name")
    given, wanted = _as_inputs(inputs), _as_task(task)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs too, which fork_rng does not give back.
        torch.default_generator.manual_seed(seed)
        try:
            model = make(**(given_arguments(make, given, wanted) | settings.arguments))
            if not isinstance(model, nn.Module):
                raise TypeError(f"it returned a {type(model).__name__}, not a torch.nn.Module")
            model = _reparametrised(model, settings)
            _check_dtypes(model)
            wanted.check_outputs(blank_outputs(model, given))
        except UntrustedCodeError:
            raise
        except Exception as error:
            raise InvalidExperimentError(
                f"model.name = {settings.name!r} on {given.described}: "
                f"{str(error) or type(error).__name__}"
            ) from error
    return model


def _reparametrised(model: nn.Module, settings: ModelSettings) -> nn.Module:
    """Return a model with what is trained in the place of its weights."""
    if settings.adapters is not None:
        return with_adapters(model, settings.adapters)
    if settings.masks is not None:
        return with_masks(model, settings.masks)
    if settings.compander is not None:
        return with_compander(model, settings.compander)
    return model


def model_seed(seed: int) -> int:
    """Return the seed of the initial parameters of a run with the seed ``seed``."""
    return derive_seed(seed, "initial parameters")


def _as_inputs(inputs: Inputs | tuple[int, int, int]) -> Inputs:
    return inputs if isinstance(inputs, Inputs) else images_of(inputs)


def _as_task(task: Task | int) -> Task:
    return task if isinstance(task, Task) else classes_of(task)


def given_arguments(make: Callable[..., Any], inputs: Inputs, task: Task) -> dict[str, Any]:
    """Return the arguments that say what a model is made for, by its signature."""
    given: dict[str, Any] = {"inputs": inputs, "outputs": task.outputs, "task": task}
    if isinstance(inputs, ImageInputs):
        given["image_shape"] = inputs.image_shape
    if isinstance(task, Classification):
        given["classes"] = task.outputs
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {name: given[name] for name in OF_IMAGES if name in given}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    needed = [name for name in OF_IMAGES if name in parameters]
    for name in needed:
        if name not in given:
            of = "images" if name == "image_shape" else "a classification"
            raise ValueError(f"it takes {name!r}, which is of {of} only; expected another model")
    names = [name for name in given if name in parameters]
    if takes_all and not names:
        names = list(OF_IMAGES) if all(name in given for name in OF_IMAGES) else list(given)
    return {name: given[name] for name in names}


def blank_outputs(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    """Return the outputs for two inputs of zeros; the model stays as it is."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        outputs: torch.Tensor = model(inputs.blank(2))
    model.train(was_training)
    return outputs


def warn_of_other_normalization(model: nn.Module, dataset: Dataset) -> None:
    """Say so if pretrained weights expect images normalised otherwise than the data set's are."""
    wanted = getattr(model, "normalization", None)
    expected = None if wanted is None else NORMALIZATIONS[wanted]
    if expected is None or not isinstance(dataset.inputs, ImageInputs):
        return
    if not np.allclose(expected, [dataset.mean, dataset.std]):
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
