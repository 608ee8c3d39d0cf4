from collections.abc import Iterator

import pytest

from tests.support.runs.layer_runs import as_many_threads_as_a_worker


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits are compared from test to test and with workers'."""
    with as_many_threads_as_a_worker():
        yield
