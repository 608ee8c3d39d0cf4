"""Random search: values of an experiment's keys drawn from distributions.

A value depends on the search's seed, the sample's number and its key alone. So a sweep that grows
by more samples keeps the trials that it has, another key leaves the others' values as they were,
and all methods and seeds are run with the same values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from atoll.clients.settings import Section
from atoll.errors import InvalidExperimentError
from atoll.randomness import derive_seed
from atoll.validation import validated

KIND = "distribution"
# Drawn numbers are rounded, so that what a table shows is what was run.
DIGITS = 4
LARGEST = 1e15
Limit = Annotated[int | float, Field(ge=-LARGEST, le=LARGEST)]


class Distribution(Protocol):
    """Distribution from which values are drawn."""

    def draw(self, generator: np.random.Generator) -> Any:
        """Return one value."""


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: Sequence[Any]

    def draw(self, generator: np.random.Generator) -> Any:
        """Return one value."""
        return self.values[int(generator.integers(len(self.values)))]


class Range(Section):
    """A number from ``low`` to ``high``, both included.

    Attributes
    ----------
    distribution : str
        "uniform" or "log-uniform" for real numbers, "integer" or "log-integer" for whole ones; of
        the logarithmic ones each order of magnitude is as likely.
    low, high : float
        The limits.
    """

    distribution: Literal["uniform", "log-uniform", "integer", "log-integer"]
    low: Limit
    high: Limit

    def problem(self) -> str | None:
        """Return what is wrong with the limits, or None."""
        if self._is_whole and not (isinstance(self.low, int) and isinstance(self.high, int)):
            return "low and high to be integers"
        if self.high <= self.low:
            return "low to be less than high"
        if self._is_logarithmic and self.low <= 0:
            return "low to be greater than 0 on a logarithmic scale"
        return None

    @property
    def _is_logarithmic(self) -> bool:
        return self.distribution.startswith("log-")

    @property
    def _is_whole(self) -> bool:
        return self.distribution.endswith("integer")

    def draw(self, generator: np.random.Generator) -> int | float:
        """Return one value; real numbers are rounded to four digits."""
        if self._is_whole:
            # Each integer stands for the interval around it.
            whole = round(self._draw(generator, self.low - 0.5, self.high + 0.5))
            return min(max(whole, self.low), self.high)
        value = float(f"{self._draw(generator, self.low, self.high):.{DIGITS}g}")
        return min(max(value, self.low), self.high)

    def _draw(self, generator: np.random.Generator, low: float, high: float) -> float:
        if self._is_logarithmic:
            return math.exp(generator.uniform(math.log(low), math.log(high)))
        return float(generator.uniform(low, high))


def is_distribution(value: Any) -> bool:
    """Tell whether a TOML value is a distribution, not a table of further keys."""
    return not isinstance(value, Mapping) or KIND in value


def distribution_of(value: Any, key: str) -> Distribution:
    """Return the distribution that a TOML value describes.

    Parameters
    ----------
    value : list or dict
        Values to choose from, or a :class:`Range`.
    key : str
        Its key, for the error.

    Raises
    ------
    InvalidExperimentError
        If it is neither.
    """
    if isinstance(value, list) and value:
        return Choice(tuple(value))
    if not isinstance(value, Mapping):
        raise InvalidExperimentError(
            f"{key} = {value!r}: expected a list of values to choose from, or "
            "{ distribution = 'log-uniform', low = 0.001, high = 1.0 } say"
        )
    limits = validated(Range, value, prefix=f"{key}: ")
    problem = limits.problem()
    if problem is not None:
        raise InvalidExperimentError(f"{key} = {value!r}: expected {problem}")
    return limits


def draw_samples(
    distributions: Mapping[str, Distribution], samples: int, seed: int
) -> list[dict[str, Any]]:
    """Return the drawn values of each sample, by key; one sample without values if there are none.

    Parameters
    ----------
    distributions : Mapping[str, Distribution]
        By experiment key.
    samples : int
        How many.
    seed : int
        The search's seed.
    """
    if not distributions:
        return [{}]
    return [
        {
            key: distribution.draw(np.random.default_rng(derive_seed(seed, "sweep", number, key)))
            for key, distribution in distributions.items()
        }
        for number in range(samples)
    ]
