"""Arguments of ``[model]``, checked against the signature of the function that makes the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

from atoll.clients.models import MODELS
from atoll.clients.noprop.noprop_settings import is_noprop, parse_model
from atoll.clients.ranges import check_value
from atoll.clients.settings import ModelSettings
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.extras import require

# What a model is made for, which is no setting.
GIVEN = ("image_shape", "classes")
# The same in newer words, unless a model has a setting of that name.
GIVEN_UNLESS_SET = ("inputs", "outputs", "task")
# Models that take a NoProp-DT network's arguments.
AS_NOPROP = ("chained-blocks", "equal-cnn")
# The argument by which a model names another that takes what it does not know itself.
WITHIN = ("base", "body")
# Keys that replace what is trained of a model's weights.
REPLACING = ("adapters", "masks", "compander")


def check_arguments(settings: ModelSettings) -> None:
    """Refuse arguments that a model does not have, or that are out of range.

    A model of the user's own (``module:callable``) is asked for its arguments' names only.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    name = MODELS.check(settings.name, "model.name")
    given = [key for key in REPLACING if getattr(settings, key) is not None]
    if given and (name in AS_NOPROP or is_noprop(settings)):
        raise InvalidExperimentError(
            f"model.{given[0]} is set: model.name = {name!r} is trained block by block; expected "
            "another model"
        )
    if len(given) > 1:
        raise InvalidExperimentError(
            f"model.{given[0]} and model.{given[1]} are set: each replaces what is trained of a "
            "weight; expected one of them"
        )
    if settings.adapters is not None:
        require("peft", what="model.adapters")
    masks = settings.masks
    if masks is not None and masks.scale <= masks.threshold:
        raise InvalidExperimentError(
            f"model.masks.scale = {masks.scale:g}: no weight would count at first; expected more "
            f"than model.masks.threshold = {masks.threshold:g}"
        )
    if name in AS_NOPROP:
        parse_model(ModelSettings.model_validate({"name": "noprop-dt", **settings.arguments}))
    elif is_noprop(settings):
        parse_model(settings)
    else:
        _check(name, "model.name", settings.arguments)


def _check(name: str, key: str, arguments: Mapping[str, Any]) -> None:
    make = MODELS.find(name, key)
    try:
        accepted = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return
    given = {*GIVEN, *(name for name in GIVEN_UNLESS_SET if name not in arguments)}
    own = {argument for argument in accepted if argument not in given}
    rest = {argument: value for argument, value in arguments.items() if argument not in own}
    hints = {} if ":" in name else get_type_hints(make, include_extras=True)
    for argument, value in arguments.items():
        if argument in own and argument in hints:
            check_value(f"model.{argument}", value, hints[argument])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        for within, inner in _inner(make, arguments, own):
            _check(MODELS.check(inner, f"model.{within}"), f"model.{within}", rest)
        return
    for argument, value in rest.items():
        hint = closest(argument, sorted(own), none="it takes no arguments")
        raise InvalidExperimentError(
            f"model.{argument} = {value!r}: {name} has no such argument; {hint}"
        )


def _inner(
    make: Callable[..., Any], arguments: Mapping[str, Any], own: set[str]
) -> Iterator[tuple[str, str]]:
    """Yield the argument that names the model which another is made of, and that name."""
    for argument in WITHIN:
        if argument in own:
            default = inspect.signature(make).parameters[argument].default
            yield argument, str(arguments.get(argument, default))
