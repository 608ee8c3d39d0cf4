"""DP strategies, local DP and SecAgg+ of Flower's come to what they come to on stock Flower."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from tests.support.apps import private_app
from tests.support.apps.stock_simulation import Results, results_of

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each comes to on Flower's own simulation, in a process of its own."""
    return results_of(private_app, tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def grid(cluster: None) -> Iterator[RayGrid]:
    with RayGrid(private_app.app, private_app.NODES, seed=1, workers=2) as grid:
        yield grid


@pytest.mark.parametrize("name", private_app.STRATEGIES)
def test_differential_privacy_has_the_same_result(name: str, grid: RayGrid, stock: Results) -> None:
    ours = private_app.run_strategy(name, lambda s, **named: run_rounds(s, grid, **named))
    for mine, theirs, start in zip(ours, stock[name].values(), private_app.initial(), strict=True):
        assert not np.allclose(mine, start, atol=1e-2)
        # Stock Flower adds replies up in the order in which they come.
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", private_app.SECURE)
def test_secure_aggregation_has_the_same_result(name: str, grid: RayGrid, stock: Results) -> None:
    context = Context(1, 0, {}, RecordDict(), {})
    ours = private_app.run_secure(name, grid, context)
    for mine, theirs in zip(ours, stock[name].values(), strict=True):
        # Masked integers add up exactly, in whatever order; the workflow then averages as many
        # equal replies as there are clients, in float64, in the order in which they came.
        np.testing.assert_allclose(mine, theirs, rtol=1e-14, atol=1e-15)


def test_noise_and_dropouts_make_a_difference(stock: Results) -> None:
    names = list(stock)
    assert names == [*private_app.STRATEGIES, *private_app.SECURE]
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            assert not np.allclose(stock[one]["0"], stock[other]["0"], atol=1e-4), (one, other)
