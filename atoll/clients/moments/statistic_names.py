"""Names of statistics in messages: registered ones, or ``module:Class``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from atoll.clients.moments.head_statistics import (
    HeadGradient,
    HessianDiagonal,
    HessianProbes,
    HessianProduct,
    ProbedDiagonal,
    SquaredHeadGradient,
)
from atoll.clients.moments.latent_statistics import ConditionalInformation, LatentNorm, LatentSquare
from atoll.clients.moments.moved_head import MovedHeadRisk
from atoll.clients.moments.statistic import Statistic
from atoll.clients.moments.statistics import (
    ExampleFeatures,
    FeatureMean,
    FeatureProducts,
    Gradient,
    Loss,
    ScaleGradient,
    ScaleGradientHalves,
    SquaredFeatures,
    SquaredLogits,
)
from atoll.errors import EngineError
from atoll.registry import import_attribute

STATISTICS: dict[str, type[Statistic]] = {
    kind.name: kind
    for kind in (
        Loss,
        HeadGradient,
        HessianProduct,
        HessianProbes,
        ProbedDiagonal,
        HessianDiagonal,
        MovedHeadRisk,
        SquaredHeadGradient,
        ScaleGradient,
        ScaleGradientHalves,
        FeatureMean,
        FeatureProducts,
        ExampleFeatures,
        SquaredLogits,
        SquaredFeatures,
        LatentSquare,
        LatentNorm,
        ConditionalInformation,
        Gradient,
    )
}


def to_json(statistic: Statistic) -> str:
    """Return a statistic as text, for a message.

    Raises
    ------
    EngineError
        If it is a user's own and no other process could find its class, or read its fields.
    """
    kind = type(statistic)
    if STATISTICS.get(kind.name) is kind:
        name = kind.name
    else:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            raise EngineError(
                f"the statistic {name}: clients cannot import it; expected a class at the top "
                "level of a module"
            )
    try:
        return json.dumps({"name": name, **asdict(statistic)})
    except (TypeError, ValueError) as error:
        raise EngineError(
            f"the statistic {name}: its fields cannot be sent ({error}); expected numbers, texts, "
            "and tuples of these"
        ) from error


def statistic_from_json(text: str) -> Statistic:
    """Return the statistic that :func:`to_json` wrote.

    Raises
    ------
    ValueError
        If there is none of that name.
    InvalidExperimentError
        If the module of a user's own statistic cannot be imported.
    """
    fields: dict[str, Any] = json.loads(text)
    name = str(fields.pop("name", ""))
    kind = STATISTICS.get(name)
    if kind is None and ":" in name:
        kind = import_attribute(name, "statistic")
        if not (isinstance(kind, type) and issubclass(kind, Statistic)):
            raise ValueError(f"{name} is no Statistic; expected a class derived from it")
    if kind is None:
        raise ValueError(f"the message asks for a statistic that there is not: {text}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
