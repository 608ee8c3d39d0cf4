"""Buffers and frozen parameters: what the server's optimiser and measuring passes leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from torch import nn

from atoll.clients.settings import ClientSettings
from atoll.strategies import build_strategy
from tests.support.strategies.small_federation import (
    LAYOUTS,
    Float64,
    hex_of,
    make_federation,
    values,
)

WHOLE = LAYOUTS["one client a domain"]
ADAM = {"server_optimizer": "adam", "server_learning_rate": 0.01, "server_weight_decay": 1e-2}


def _with(norm: nn.Module) -> nn.Module:
    model = Float64(9, 3)
    model.body.insert(1, norm.double())
    return model


def normed(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _with(nn.BatchNorm1d(9))


class Frozen(nn.BatchNorm1d):
    """BatchNorm as a pretrained backbone has it: constants, in training too."""

    def __init__(self) -> None:
        super().__init__(9)
        self.requires_grad_(False)
        self.running_mean.fill_(2.0)  # type: ignore[union-attr]
        self.running_var.fill_(3.0)  # type: ignore[union-attr]

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


def frozen(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _with(Frozen())


@pytest.mark.parametrize("name", ["VREx", "Fish", "MLDG", "ANDMask"])
def test_weight_decay_and_momentum_move_nothing_that_is_not_trained(
    name: str, tmp_path: Path
) -> None:
    federation = make_federation(tmp_path, WHOLE, model=f"{__name__}:frozen")
    settings: dict[str, Any] = {**ADAM, "client_update": "gradient"}
    if name == "VREx":
        settings["anneal_rounds"] = 0
    strategy, arrays = build_strategy(name, settings), federation.arrays
    for number in (1, 2, 3):
        arrays, _ = federation.round(strategy, number, arrays)
    before, after = values(federation.arrays), values(arrays)
    for key in before:
        is_kept = key.startswith("body.1.")
        assert np.array_equal(before[key], after[key]) is is_kept, key


def test_what_clients_change_without_training_it_is_averaged(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, WHOLE, model=f"{__name__}:normed")
    mean, _ = federation.round(build_strategy("ERM", {}))
    stepped, _ = federation.round(build_strategy("ERM", ADAM))
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert np.array_equal(values(stepped)[f"body.1.{key}"], values(mean)[f"body.1.{key}"])
    assert not np.array_equal(values(stepped)["head.weight"], values(mean)["head.weight"])


@pytest.mark.parametrize("name", ["VREx", "FedDGGA"])
def test_passes_that_measure_leave_statistics_as_they_were(name: str, tmp_path: Path) -> None:
    steps = ClientSettings(learning_rate=0.1, batch_size=3, epochs=2)
    # Of one size, so that FedDGGA's first weights are FedAvg's.
    layout = [{"photo": 9}, {"art": 9}, {"sketch": 9}]
    federation = make_federation(tmp_path, layout, client=steps, model=f"{__name__}:normed")
    expected, _ = federation.round(FedAvg(min_available_nodes=1))
    settings = {"penalty_weight": 0.0, "domain_weights": "examples"}
    after, metrics = federation.round(build_strategy(name, settings))
    assert metrics["drift"] > 0.0
    if name == "VREx":
        assert hex_of(after) == hex_of(expected)
    for key, value in values(expected).items():
        np.testing.assert_allclose(values(after)[key], value, rtol=1e-12, err_msg=key)
