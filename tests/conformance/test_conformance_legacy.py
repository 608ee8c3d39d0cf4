"""The older API: NumPyClient, client_fn, server_fn, its strategies and workflows."""

from __future__ import annotations

import pytest

from tests.support.conformance.app_cases import LEGACY as CASES
from tests.support.conformance.comparison import assert_same
from tests.support.conformance.two_engines import Case, Shown

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_app_does_on_atoll_as_on_stock_flower(
    case: Case, shown: dict[str, tuple[Shown, Shown]]
) -> None:
    assert_same(case, *shown[case.name])
