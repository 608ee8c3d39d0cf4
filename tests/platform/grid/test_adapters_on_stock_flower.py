"""Adapters come to what they come to on stock Flower, and the rest of the model stays at home."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from tests.support.apps import adapter_app
from tests.support.apps.stock_simulation import results_of

pytest.importorskip("peft")
pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_adapters_are_the_same_on_stock_flower(cluster: None, tmp_path: Path) -> None:
    stock = results_of(adapter_app, tmp_path)["lora"]
    with RayGrid(adapter_app.app, adapter_app.CLIENTS, seed=3, workers=2) as grid:
        ours = adapter_app.final_arrays(lambda s, **named: run_rounds(s, grid, **named))
    before = {key: array.numpy() for key, array in adapter_app.federation().initial_arrays.items()}
    assert ours.keys() == stock.keys() == before.keys()
    # Two matrices of rank 2 on 64 x 16 weights, and the head with its biases.
    assert sum(array.size for array in ours.values()) == 2 * (64 + 16) + 16 * 10 + 10
    for key, array in ours.items():
        # Stock Flower adds replies up in the order in which they come.
        np.testing.assert_allclose(array, stock[key], rtol=0, atol=1e-5)
        assert np.abs(array - before[key]).max() > 1e-3, key
