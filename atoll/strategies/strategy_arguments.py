"""Ranges of the arguments that strategies do not check themselves: most of Flower's.

Flower's strategies accept nearly any number: a learning rate of 1e-300 runs to the last round and
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from atoll.clients.ranges import (
    Count,
    Decay,
    Deviation,
    Fraction,
    NonNegativeCount,
    Norm,
    Positive,
    Rate,
    Weight,
    check_value,
)

NodeShare = Annotated[float, Field(ge=1e-9, le=1.0)] | Annotated[int, Field(ge=1, le=100_000)]
# By the argument's name, which means the same in all of Flower's strategies.
ARGUMENTS: Mapping[str, Any] = {
    "fraction_train": Fraction,
    "fraction_evaluate": Fraction,
    "min_train_nodes": NonNegativeCount,
    "min_evaluate_nodes": NonNegativeCount,
    "min_available_nodes": NonNegativeCount,
    "proximal_mu": Weight,
    "server_learning_rate": Rate,
    "server_momentum": Decay,
    "eta": Rate,
    "eta_l": Rate,
    "beta_1": Decay,
    "beta_2": Decay,
    "tau": Positive,
    "q": Annotated[float, Field(ge=0.0, le=1e3)],
    "client_learning_rate": Rate,
    # FedTrimmedAvg's share of the replies that are cut off at each end.
    "beta": Annotated[float, Field(ge=0.0, lt=0.5)],
    "num_malicious_nodes": NonNegativeCount,
    "num_nodes_to_select": Count,
    "noise_multiplier": Annotated[float, Field(ge=0.0, le=1e6)],
    "num_sampled_clients": Count,
    "clipping_norm": Norm,
    "initial_clipping_norm": Norm,
    "target_clipped_quantile": Fraction,
    "clip_norm_lr": Rate,
    "clipped_count_stddev": Annotated[float, Field(ge=0.0, le=1e9)] | None,
    # SCAFFOLD, FedDyn, FedExP
    "option": Literal[1, 2],
    "alpha": Positive,
    "epsilon": Weight,
    # SecAggPlus
    "num_shares": NodeShare,
    "reconstruction_threshold": NodeShare,
    "max_weight": Positive,
    "clipping_range": Deviation,
    # FeatureFishing
    "scale": Positive,
    # Layerwise and its asynchronous form
    "layers_per_client": Count | None,
    "delays": Annotated[list[Count], Field(min_length=1, max_length=100_000)],
    "buffer_size": Count,
    "staleness_exponent": Annotated[float, Field(ge=0.0, le=1e3)],
}


def check_arguments(arguments: Mapping[str, Any], key: str) -> None:
    """Refuse numbers that are out of range.

    Parameters
    ----------
    arguments : Mapping
        Of one of Flower's strategies, or of one of ours that is no dataclass.
    key : str
        The experiment key of their section, for errors.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    for name, value in arguments.items():
        if name in ARGUMENTS:
            check_value(f"{key}.{name}", value, ARGUMENTS[name])
