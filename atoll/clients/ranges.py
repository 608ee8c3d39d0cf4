"""Ranges of the numbers in experiment files; a value out of them is taken for a mistake.

Every number of every settings class, strategy, defense, attack and model has one of these types,
so that a mistake (a time limit of 1e-9 seconds, a clipping norm of 1e-300, 10**12 steps) is refused
before a run. The limits are far outside of published settings, and well inside of what float32 and
a machine can represent.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from atoll.error_messages import short
from atoll.errors import InvalidExperimentError
from atoll.validation import expectation

# Counts.
Rounds = Annotated[int, Field(gt=0, le=10_000_000)]
Epochs = Annotated[int, Field(gt=0, le=100_000)]
Steps = Annotated[int, Field(gt=0, le=10_000_000)]
Clients = Annotated[int, Field(gt=0, le=100_000_000)]
BatchSize = Annotated[int, Field(gt=0, le=10_000_000)]
Examples = Annotated[int, Field(gt=0, le=10_000_000_000)]
# Neurons, channels, blocks: a layer with more does not fit anywhere.
Width = Annotated[int, Field(gt=0, le=100_000)]
Depth = Annotated[int, Field(gt=0, le=1_000)]
Pixels = Annotated[int, Field(gt=0, le=4_096)]
# Restarts, directions, runs that are averaged: each costs as much as the whole.
Repetitions = Annotated[int, Field(gt=0, le=10_000)]
# Of attacks and of generators' training.
Iterations = Annotated[int, Field(gt=0, le=1_000_000)]
Count = Annotated[int, Field(gt=0, le=100_000_000)]
NonNegativeCount = Annotated[int, Field(ge=0, le=100_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

# Numbers. Less than the least of these moves no float32 parameter.
Rate = Annotated[float, Field(ge=1e-10, le=1e6)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# Of some share, not of none: of values that are pruned, say.
Share = Annotated[float, Field(ge=1e-9, lt=1.0)]
Norm = Annotated[float, Field(ge=1e-6, le=1e12)]
Weight = Annotated[float, Field(ge=0.0, le=1e12)]
Positive = Annotated[float, Field(ge=1e-12, le=1e12)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Deviation = Annotated[float, Field(ge=1e-12, le=1e6)]
# A client or a round that has less time than a millisecond has none.
Seconds = Annotated[float, Field(ge=1e-3, le=1e9)]
Megabytes = Annotated[float, Field(ge=1e-3, le=1e9)]
Processors = Annotated[float, Field(ge=0.01, le=10_000.0)]

# Of differential privacy; the first is the noise's deviation by the sensitivity.
NoiseMultiplier = Annotated[float, Field(ge=1e-3, le=1e6)]
Epsilon = Annotated[float, Field(ge=1e-3, le=1e6)]
Delta = Annotated[float, Field(ge=1e-50, lt=1.0)]

CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
T = TypeVar("T")


def check_value(key: str, value: object, kind: Any) -> None:
    """Check an argument against a type with its range.

    Parameters
    ----------
    key : str
        The experiment's key, for the error.
    value : object
        What it was given.
    kind : type
        What it is to be: :data:`Count`, say.

    Raises
    ------
    InvalidExperimentError
        If the value is not of that kind: ``<key> = <value>: expected ...``.
    """
    try:
        TypeAdapter(kind, config=CONFIG).validate_python(value)
    except ValidationError as error:
        raise InvalidExperimentError(f"{key} = {short(value)}: {expectation(error)}") from None
