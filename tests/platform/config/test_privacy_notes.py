"""What is said of privacy that is none, before a run starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from atoll.attacks.defenses.base.privacy_accounting import gaussian_epsilon
from atoll.clients.settings import ClientSettings, ModSettings
from atoll.platform.config.client_mods import with_references
from atoll.platform.config.privacy.notes import privacy_notes
from atoll.strategies import build_strategy

SIZES = np.array([100, 100, 50, 0])


def notes(rounds: int = 1, mod: dict[str, Any] | None = None, **strategy: Any) -> list[str]:
    name = strategy.pop("name", "FedAvg")
    steps = {} if mod is None else {k: mod.pop(k) for k in ("steps", "epochs") if k in mod}
    client = ClientSettings(mods=() if mod is None else (ModSettings(**mod),), **steps)
    return privacy_notes(with_references(client), build_strategy(name, strategy), SIZES, rounds)


def test_a_delta_of_one_record_in_so_many_is_said_with_the_reason() -> None:
    [line] = notes(mod={"name": "dp-sgd", "delta": 0.9, "noise_multiplier": 5.0})
    assert line.startswith("client.mods has 'dp-sgd' with delta = 0.9: with 100 examples of a")
    assert "has delta = 1/100" in line
    assert notes(mod={"name": "dp-sgd", "delta": 0.01, "noise_multiplier": 5.0})
    assert not notes(mod={"name": "dp-sgd", "delta": 0.0099, "noise_multiplier": 5.0})
    [line] = notes(mod={"name": "local-dp", "delta": 0.5, "epsilon": 1.0})
    assert "with 3 clients" in line
    arguments = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0}
    [line] = notes(mod={"name": "LocalDpMod", "delta": 0.5, **arguments})
    assert "'LocalDpMod' with delta = 0.5" in line


@pytest.mark.parametrize(
    ("steps", "uses"), [({}, 30), ({"epochs": 2}, 60), ({"steps": 5}, 60), ({"steps": 1}, 30)]
)
def test_what_all_rounds_spend_is_said_where_it_is_large(steps: dict[str, int], uses: int) -> None:
    """A client of 50 examples in batches of 20: five steps are two passes."""
    [line] = notes(30, mod={"name": "dp-sgd", "noise_multiplier": 0.5, **steps})
    assert f"spend epsilon = {gaussian_epsilon(0.5, uses, 1e-5):.3g}, by which" in line
    assert not notes(30, mod={"name": "dp-sgd", "noise_multiplier": 20.0, **steps})


def test_flowers_local_mod_and_noise_of_zero() -> None:
    arguments = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 8.0, "delta": 1e-5}
    [line] = notes(10, mod={"name": "LocalDpMod", **arguments})
    assert "10 rounds of 8 spend epsilon = 80" in line
    [line] = notes(
        name="DifferentialPrivacyServerSideFixedClipping",
        noise_multiplier=0.0,
        clipping_norm=1.0,
        num_sampled_clients=3,
        strategy={"name": "FedAvg"},
    )
    assert line.startswith("strategy.noise_multiplier = 0: ")
    assert not notes(name="FedAvg")
