"""Victims that are made without a federation, and Student's intervals of paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

from atoll.attacks.example_victims import example_victim
from atoll.attacks.victims import Victim
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.platform.results.student import t_factor


def victims_of(
    dataset: Dataset,
    model: Mapping[str, Any],
    batch: int,
    seeds: Sequence[int],
    **client: Any,
) -> list[Victim]:
    """Return a client of its own model for each seed.

    Parameters
    ----------
    dataset : Dataset
        Whose training examples clients have.
    model : Mapping
        ``[model]``.
    batch : int
        How many examples a client has, all of which are in a step.
    seeds : Sequence[int]
        Of the clients.
    client : Any
        Other keys of ``[client]``.
    """
    settings = ClientSettings.model_validate({"batch_size": batch, "learning_rate": 1.0, **client})
    return [
        example_victim(
            ModelSettings.model_validate(model),
            settings,
            examples=batch,
            seed=seed,
            dataset=dataset,
        )
        for seed in seeds
    ]


def half_width(differences: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval of the mean; nan of a single one.

    Examples
    --------
    >>> round(half_width([1.0, 2.0, 3.0]), 3)
    2.484
    """
    count = len(differences)
    if count < 2:
        return float("nan")
    return t_factor(0.95, count - 1) * stdev(differences) / count**0.5
