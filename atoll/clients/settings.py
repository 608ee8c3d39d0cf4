"""Settings of clients: the sections ``[data]``, ``[model]`` and ``[client]`` of an experiment file.

Each section is a frozen pydantic model: unknown keys, wrong types and values out of range are
refused with the key's name. ``[data]``, ``[model]`` and ``[client]`` of an experiment are these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from atoll.clients.ranges import (
    BatchSize,
    Clients,
    Decay,
    Epochs,
    Examples,
    Megabytes,
    Norm,
    Rate,
    Rounds,
    Seconds,
    Steps,
    Weight,
)


def _at_home(path: Path) -> Path:
    """Return the path with ``~`` replaced, where there is such a home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


# TOML has neither paths nor tuples: these are made from strings and arrays.
FilePath = Annotated[Path, Field(strict=False), AfterValidator(_at_home)]


class Section(BaseModel):
    """A section of an experiment file: frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PartitionSettings(Section):
    """``[data.partition]``: how examples are dealt to clients.

    Keys beside ``name`` are the keyword arguments of the partitioner of that name (``alpha``,
    ``min_partition_size``, ``num_shards_per_partition``, ``heterogeneity``, ...).
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "iid"

    @property
    def arguments(self) -> dict[str, Any]:
        """The partitioner's own keyword arguments."""
        return dict(self.model_extra or {})


class DataSettings(Section):
    """``[data]``: which data set, and how it is spread over clients.

    ``options`` are the data set's own (``preset``, ``protocol``, ``image_size``, ...). Domains in
    ``held_out`` are given to no client. ``test_examples`` is the limit for each domain, where the
    data set has domains.
    """

    dataset: str = "mnist"
    path: FilePath | None = None
    options: dict[str, Any] = {}
    held_out: Annotated[tuple[str, ...], Field(strict=False)] = ()
    clients: Clients = 100
    partition: PartitionSettings = PartitionSettings()
    train_examples: Examples | None = None
    test_examples: Examples | None = None
    examples_per_client: Examples | None = None
    client_test_fraction: Decay = 0.0


class ModelSettings(Section):
    """``[model]``: a registered model or ``module:callable``; other keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "lenet"

    @property
    def arguments(self) -> dict[str, Any]:
        """The model's own keyword arguments."""
        return dict(self.model_extra or {})


class ScheduleSettings(Section):
    """``[client.schedule]``: how the learning rate goes down with the rounds."""

    name: Literal["constant", "step", "cosine", "exponential"] = "constant"
    every: Rounds = 10
    factor: Annotated[float, Field(ge=1e-6, le=1.0)] = 0.5
    final: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    warmup_rounds: Annotated[int, Field(ge=0, le=10_000_000)] = 0


class ModSettings(Section):
    """An entry of ``client.mods``: a mod's name; other keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The mod's own keyword arguments."""
        return dict(self.model_extra or {})


class ClientSettings(Section):
    """``[client]``: local training and evaluation.

    ``mods`` are the outermost first, each a name or a table with a name and arguments.

    ``memory_mb`` is what clients declare to have for training, in units of 1e6 bytes: client ``i``
    has entry ``i`` of the list, which is repeated. Layerwise strategies give each as many layers as
    fit.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Rate = 0.05
    momentum: Decay = 0.0
    weight_decay: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    schedule: ScheduleSettings = ScheduleSettings()
    batch_size: BatchSize = 20
    epochs: Epochs | None = None
    steps: Steps | None = None
    proximal_mu: Weight = 0.0
    gradient_clip: Norm | None = None
    vectorize: Literal["auto"] | bool = "auto"
    timeout: Seconds | None = None
    mods: Annotated[tuple[str | ModSettings, ...], Field(strict=False)] = ()
    memory_mb: Annotated[tuple[Megabytes, ...], Field(strict=False)] = ()
