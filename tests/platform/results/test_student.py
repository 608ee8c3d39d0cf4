"""The factor of Student's intervals is SciPy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atoll.platform.results.student import t_factor


@given(st.floats(0.01, 0.999), st.integers(1, 500))
def test_it_is_scipys_quantile(confidence: float, degrees: int) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, degrees)
    assert t_factor(confidence, degrees) == pytest.approx(expected, rel=1e-9)
