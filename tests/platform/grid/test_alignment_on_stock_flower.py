"""Every alignment strategy comes to what it comes to on stock Flower's simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from tests.support.apps import aligned_app
from tests.support.apps.stock_simulation import Results, results_of

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each comes to on Flower's own simulation, in a process of its own."""
    return results_of(aligned_app, tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def grid(cluster: None) -> Iterator[RayGrid]:
    with RayGrid(aligned_app.app, aligned_app.NODES, seed=3, workers=2) as grid:
        yield grid


@pytest.mark.parametrize("name", ALIGNMENT_STRATEGIES)
def test_a_method_comes_to_the_same_model(name: str, grid: RayGrid, stock: Results) -> None:
    ours = aligned_app.final_arrays(name, lambda s, *rest: run_rounds(s, grid, *rest))
    assert list(ours) == list(stock[name])
    for key, value in ours.items():
        # Stock Flower adds replies up in the order in which they come.
        np.testing.assert_allclose(value, stock[name][key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_every_method_acts(stock: Results) -> None:
    plain = stock["ERM"]
    for name, arrays in stock.items():
        if arrays.keys() == plain.keys() and name != "ERM":
            moved = max(np.abs(arrays[key] - plain[key]).max() for key in plain)
            assert moved > 1e-4, name
