"""Clients' own parameters and models come to what they come to on stock Flower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from tests.support.apps import personal_app
from tests.support.apps.stock_simulation import results_of

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_own_parameters_and_models_are_the_same_on_stock_flower(
    cluster: None, tmp_path: Path
) -> None:
    stock = results_of(personal_app, tmp_path)
    with RayGrid(personal_app.app, personal_app.CLIENTS, seed=1, workers=2) as grid:
        for name in personal_app.METHODS:
            ours = personal_app.run_method(name, lambda s, **named: run_rounds(s, grid, **named))
            assert ours.keys() == stock[name].keys()
            for key, value in ours.items():
                # Stock Flower adds replies up in the order in which they come.
                np.testing.assert_allclose(value, stock[name][key], rtol=0, atol=1e-5)
