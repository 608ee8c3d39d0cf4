"""Partitioners by name: flwr-datasets' and ours, checks of their arguments, explained errors.

The partitioners' own errors name their arguments at best. Users get errors that name the
experiment's keys and their values.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from atoll.clients.ranges import (
    Count,
    Examples,
    Fraction,
    NonNegativeCount,
    Positive,
    Seed,
    Weight,
    check_value,
)
from atoll.clients.settings import DataSettings
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.randomness import derive_seed
from atoll.registry import Registry

FLWR_DATASETS = {
    "iid": "IidPartitioner",
    "dirichlet": "DirichletPartitioner",
    "inner-dirichlet": "InnerDirichletPartitioner",
    "distribution": "DistributionPartitioner",
    "pathological": "PathologicalPartitioner",
    "shard": "ShardPartitioner",
    "natural-id": "NaturalIdPartitioner",
    "grouped-natural-id": "GroupedNaturalIdPartitioner",
    "continuous": "ContinuousPartitioner",
    "linear": "LinearPartitioner",
    "square": "SquarePartitioner",
    "exponential": "ExponentialPartitioner",
    "size": "SizePartitioner",
}
PARTITIONERS: Registry[Any] = Registry(
    "partitioner",
    {
        **{name: f"flwr_datasets.partitioner:{kind}" for name, kind in FLWR_DATASETS.items()},
        "domain": "atoll.clients.data.partitioning.domain_partitioner:DomainPartitioner",
        "quantity": "atoll.clients.data.partitioning.quantity_partitioner:QuantityPartitioner",
    },
)
# Imported when examples are dealt: every process of a run imports this module, and few deal.
TABLES: Registry[Any] = Registry("table", {"datasets": "datasets:Dataset"})
NAME = "data.partition.name"
# Below that, a Dirichlet distribution's draws are not told from 0.
Alpha = Annotated[float, Field(ge=1e-3, le=1e6)]
# By the argument's name, which means the same for all of them.
ARGUMENTS: Mapping[str, Any] = {
    "alpha": Alpha | Annotated[list[Alpha], Field(min_length=1)],
    "min_partition_size": NonNegativeCount,
    "self_balancing": bool,
    "shuffle": bool,
    "seed": Seed | None,
    "partition_sizes": Annotated[list[Examples], Field(min_length=1)],
    "partition_by": Literal["label", "domain", "group"],
    "distribution_array": Annotated[list[list[Weight]], Field(min_length=1)],
    "num_unique_labels_per_partition": Count,
    "preassigned_num_samples_per_label": NonNegativeCount,
    "rescale": bool,
    "num_classes_per_partition": Count,
    "class_assignment_mode": Literal["random", "deterministic", "first-deterministic"],
    "num_shards_per_partition": Count | None,
    "shard_size": Count | None,
    "keep_incomplete_shard": bool,
    "group_size": Count,
    "mode": Literal["allow-smaller", "allow-bigger", "drop-reminder", "strict"],
    "sort_unique_ids": bool,
    "strictness": Fraction,
    "heterogeneity": Fraction,
    "clients_per_domain": NonNegativeCount | dict[str, NonNegativeCount] | None,
    "weights": Annotated[list[Positive], Field(min_length=1)] | None,
}
# What a user of an experiment file cannot set.
GIVEN = ("self", "num_partitions", "domain_names")


def check_partitioner(name: str) -> str:
    """Return the short name of a partitioner, given that or its class in flwr-datasets.

    ``module:Class`` is returned as it is.

    Raises
    ------
    UnknownNameError
        If there is no such partitioner.
    """
    for short, kind in FLWR_DATASETS.items():
        if kind == name:
            return short
    return PARTITIONERS.check(name, NAME)


def check_partition(settings: DataSettings) -> str:
    """Return the short name of an experiment's partitioner, its arguments being in range.

    Nothing is imported for it.

    Raises
    ------
    InvalidExperimentError
        If there is no such partitioner, or a value is out of range.
    """
    name = check_partitioner(settings.partition.name)
    for argument, value in settings.partition.arguments.items():
        if ":" not in name and argument in ARGUMENTS:
            check_value(f"data.partition.{argument}", value, ARGUMENTS[argument])
    return name


def own_function(name: str) -> Callable[..., Any] | None:
    """Return a user's own function that deals examples; None of a class, and of names.

    Raises
    ------
    InvalidExperimentError
        If ``module:attribute`` is neither.
    """
    if ":" not in name:
        return None
    found = PARTITIONERS.find(name, NAME)
    if not callable(found):
        raise InvalidExperimentError(
            f"{NAME} = {name!r}: is a {type(found).__name__}, expected a function or a Partitioner"
        )
    return None if inspect.isclass(found) else found


def make_partitioner(
    settings: DataSettings, seed: int, columns: Sequence[str], domains: Sequence[str]
) -> Any:
    """Make the partitioner of ``[data.partition]``, without the data.

    Parameters
    ----------
    settings : DataSettings
        ``[data]``.
    seed : int
        The run's seed.
    columns : Sequence[str]
        What is known of each example, beside its label: "domain", "group".
    domains : Sequence[str]
        The names of the data set's domains.

    Raises
    ------
    InvalidExperimentError
        If it does not take an argument, needs one that is not there, or refuses a value.
    """
    given, name = settings.partition, check_partition(settings)
    kind = PARTITIONERS.find(name, NAME)
    accepted = inspect.signature(kind.__init__).parameters
    for argument, value in given.arguments.items():
        if argument not in accepted or argument in GIVEN:
            known = [n for n in accepted if n not in GIVEN]
            raise InvalidExperimentError(
                f"data.partition.{argument} = {value!r}: {kind.__name__} has no such argument; "
                f"{closest(argument, known, none='it takes no arguments')}"
            )
    defaults = {
        "num_partitions": settings.clients,
        "partition_by": _partition_by(kind.__name__, columns),
        "domain_names": tuple(domains),
        "seed": derive_seed(seed, "partition") % 2**32,
    }
    arguments = {k: v for k, v in defaults.items() if k in accepted} | given.arguments
    if "distribution_array" in arguments:
        arguments["distribution_array"] = _as_array(arguments["distribution_array"])
    for argument, parameter in accepted.items():
        is_needed = parameter.default is parameter.empty and argument != "self"
        if is_needed and argument not in arguments:
            raise InvalidExperimentError(
                f"data.partition.{argument} is not set; the partitioner {given.name!r} needs it"
            )
    try:
        return kind(**arguments)
    except Exception as error:
        raise InvalidExperimentError(_explained(error, settings)) from error


def load_all(
    partitioner: Any, columns: Mapping[str, Any], settings: DataSettings
) -> list[NDArray[np.int64]]:
    """Return each client's examples, the values of the column ``index``.

    Raises
    ------
    InvalidExperimentError
        If the examples cannot be dealt so: with the keys that decide it.
    """
    partitioner.dataset = TABLES["datasets"].from_dict(dict(columns))
    try:
        # Some show a progress bar of their own.
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            count = partitioner.num_partitions
            check_count(count, settings)
            loaded = [partitioner.load_partition(client) for client in range(count)]
    except InvalidExperimentError:
        raise
    except Exception as error:
        line = _explained(error, settings, len(columns["index"]))
        raise InvalidExperimentError(line) from error
    return [part.with_format("numpy")["index"][:].astype(np.int64) for part in loaded]


def check_count(count: int, settings: DataSettings) -> None:
    """Refuse a partition into another number of clients than ``data.clients``."""
    if count != settings.clients:
        raise InvalidExperimentError(
            f"data.clients = {settings.clients}: {settings.partition.name} makes {count} "
            f"clients of this data set; expected data.clients = {count}"
        )


def _explained(error: Exception, settings: DataSettings, examples: int | None = None) -> str:
    """Return a partitioner's error with the keys that decide what it complains of."""
    given = settings.partition
    name = check_partitioner(given.name)
    if name == "dirichlet" and examples is not None and "attempts" in str(error):
        return _too_few(settings, examples)
    kind = PARTITIONERS.find(name, NAME)
    own = [key for key in inspect.signature(kind.__init__).parameters if key not in GIVEN]
    named = [key for key in own if key in given.arguments]
    named += [key for key in own if key not in named and f"`{key}" in str(error)]
    shown = ", ".join(
        f"data.partition.{key}" + (f" = {given.arguments[key]!r}" if key in given.arguments else "")
        for key in named
    )
    text = " ".join(str(error).split()).replace("num_partitions", "data.clients")
    dealt = "" if examples is None else f", {examples} examples"
    decided = f"{shown} with " if shown else ""
    return (
        f"{decided}data.partition.name = {given.name!r} (data.clients = {settings.clients}{dealt}"
        f"{_limit(settings)}): {text}"
    )


def _too_few(settings: DataSettings, examples: int) -> str:
    """Return why Dirichlet's draws left a client with fewer examples than the least."""
    kind = PARTITIONERS.find("dirichlet", NAME)
    default = inspect.signature(kind.__init__).parameters["min_partition_size"].default
    least = settings.partition.arguments.get("min_partition_size", default)
    subject = f"data.partition.min_partition_size = {least}"
    have = f"{examples} examples among data.clients = {settings.clients}{_limit(settings)}"
    if least * settings.clients > examples:
        most = examples // settings.clients
        return f"{subject}: there are {have}; expected at most {most}"
    return (
        f"{subject}: in ten draws data.partition.alpha = {settings.partition.arguments['alpha']!r} "
        f"left a client with fewer of {have}; expected less, or a larger data.partition.alpha"
    )


def _limit(settings: DataSettings) -> str:
    limit = settings.train_examples
    return "" if limit is None else f", data.train_examples = {limit}"


def _partition_by(name: str, columns: Sequence[str]) -> str:
    if name == "DomainPartitioner":
        return "domain"
    natural = [column for column in ("domain", "group") if column in columns]
    return natural[0] if "NaturalId" in name and natural else "label"


def _as_array(rows: Any) -> NDArray[np.float64]:
    """Return a table of numbers; TOML has no arrays of numpy."""
    try:
        return np.asarray(rows, np.float64)
    except ValueError as error:
        raise InvalidExperimentError(
            f"data.partition.distribution_array: {error}; expected rows of the same length"
        ) from error
