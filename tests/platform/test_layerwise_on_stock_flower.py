"""Layerwise strategies come to what they come to on stock Flower's simulation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import layerwise_app
import numpy as np
import pytest
from probing import environment_without_ray

from atoll.platform.grid import RayGrid
from atoll.platform.rounds import run_rounds

Results = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each comes to on Flower's own simulation, in a process of its own."""
    target = tmp_path_factory.mktemp("stock") / "arrays.npz"
    done = subprocess.run(
        [sys.executable, layerwise_app.__file__, str(target)],
        env=environment_without_ray(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert target.exists(), done.stdout + done.stderr
    found: Results = {}
    with np.load(target) as arrays:
        for place in arrays.files:
            name, _, key = place.partition("/")
            found.setdefault(name, {})[key] = arrays[place]
    return found


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
