"""Layerwise strategies come to what they come to on stock Flower's simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from tests.support.apps import layerwise_app
from tests.support.apps.stock_simulation import Results, results_of

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each comes to on Flower's own simulation, in a process of its own."""
    return results_of(layerwise_app, tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def grid(cluster: None) -> Iterator[RayGrid]:
    with RayGrid(layerwise_app.app, layerwise_app.NODES, seed=3, workers=2) as grid:
        yield grid


@pytest.mark.parametrize("name", layerwise_app.SAME_ON_BOTH)
def test_a_strategy_comes_to_the_same_model(name: str, grid: RayGrid, stock: Results) -> None:
    ours = layerwise_app.final_arrays(name, lambda s, *rest: run_rounds(s, grid, *rest))
    assert list(ours) == list(stock[name])
    before = layerwise_app.federation(layerwise_app.STRATEGIES[name]).initial_arrays
    apart, moved = (
        sum(float(np.square(ours[key] - other).sum()) for key, other in others.items())
        for others in (stock[name], {key: array.numpy() for key, array in before.items()})
    )
    # Stock Flower adds replies up in the order in which they come, and steps amplify it.
    assert apart < 1e-4 * moved


def test_every_strategy_trains_every_block(stock: Results) -> None:
    before = layerwise_app.federation(layerwise_app.STRATEGIES["FedAvg"]).initial_arrays
    assert stock.keys() == layerwise_app.STRATEGIES.keys()
    for name, arrays in stock.items():
        for block in range(layerwise_app.BLOCKS):
            key = f"blocks.{block}.from_image.weight"
            assert np.abs(arrays[key] - before[key].numpy()).max() > 2e-3, (name, block)
