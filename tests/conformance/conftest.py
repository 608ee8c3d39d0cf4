"""Runs a test module's ``CASES`` once on each engine."""

from __future__ import annotations

import pytest

from tests.support.conformance.two_engines import Shown, run_on_atoll, run_on_stock


@pytest.fixture(scope="module")
def shown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Shown, Shown]]:
    """What each case of the module showed, on stock Flower and on Atoll."""
    folder = tmp_path_factory.mktemp("engines")
    cases = request.module.CASES
    stock, atoll = run_on_stock(cases, folder), run_on_atoll(cases, folder)
    return {case.name: (stock[case.name], atoll[case.name]) for case in cases}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the suite: it starts stock Flower and Atoll many times, for minutes."""
    for item in items:
        if "tests/conformance" in str(item.path):
            item.add_marker(pytest.mark.conformance)
            item.add_marker(pytest.mark.ray)
