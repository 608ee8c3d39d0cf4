import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
# Ray would write one into the home folder. It asks for it whatever the user has set otherwise.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "a-token-of-the-tests"
# A Ray that one test process starts by ``ray start`` would be joined by the drivers of others.
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)
# What tests trust, nobody else is to trust.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="atoll-state-")

import hypothesis
import pytest

# Tests run on shared machines: how long an example takes says nothing. CI draws the same examples
# every time, so that a submission is judged by what it changed; runs by hand draw new ones.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A real Ray that Atoll did not start, with room for six workers."""
    import ray

    from atoll.platform.cluster.connection import patient_start

    with patient_start():
        ray.init(
            address="local",
            num_cpus=6,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
        )
    yield
    assert ray.is_initialized(), "a test shut down a Ray that it did not start"
    ray.shutdown()
