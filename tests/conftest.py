"""Settings of every test process, the Ray that tests share, and a count of the Rays they start."""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from glob import glob
from pathlib import Path

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
# Ray would write one into the home folder. It asks for it whatever the user has set otherwise.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "a-token-of-the-tests"
ROOT = Path(__file__).resolve().parents[1]
# Temporary folders of this process and of those it starts are in one that is removed at its end.
# Its path is short because sockets of Ray's are in it, and theirs are limited to 107 characters.
FOLDER = Path(tempfile.mkdtemp(prefix="at-", dir="/tmp"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
# pytest's own is kept, to look into after a failure.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
tempfile.tempdir = os.environ["TMPDIR"] = str(FOLDER)
# A Ray that one test process starts by ``ray start`` would be joined by the drivers of others.
os.environ["RAY_TMPDIR"] = str(FOLDER)
# What tests trust, nobody else is to trust.
os.environ["XDG_STATE_HOME"] = str(FOLDER / "state")

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest.register_assert_rewrite("tests.support")

# Tests run on shared machines: how long an example takes says nothing. CI draws the same examples
# every time, so that a submission is judged by what it changed; runs by hand draw new ones.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.register_profile(
    "fast", hypothesis.settings.get_profile("untimed"), max_examples=20
)
hypothesis.settings.load_profile("untimed")

_rays_seen: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the shared Ray as using Ray."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


class FixtureScheduling(LoadScopeScheduling):
    """Distribution of tests one by one, but for modules that have fixtures of their own.

    These are runs that last longer than the tests, and a second process would repeat them.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if has_module_fixtures(path) else nodeid


@cache
def has_module_fixtures(path: str) -> bool:
    """Tell whether a test file, relative to the repository, has fixtures of scope "module"."""
    return 'scope="module"' in (ROOT / path).read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FixtureScheduling:
    """Distribute tests over processes; pytest-xdist's own groups do not work with pytest 9."""
    return FixtureScheduling(config, log)


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


@pytest.fixture
def joining(cluster: None) -> dict[str, str]:
    """The environment of processes that use the Ray that tests share, and start none."""
    import ray

    return {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(autouse=True)
def plain_log() -> None:
    """Send Atoll's log to the root, where pytest reads it: a command of another test moved it."""
    logger = logging.getLogger("atoll")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def rays(request: pytest.FixtureRequest) -> Iterator[None]:
    """A count of the Rays that a test starts, here or in processes; only those marked may.

    Every Ray makes a folder for its session, so those of processes that have ended count too.
    """
    yield
    patterns = ("ray/session_2*", "*/session_2*", "*/ray/session_2*")
    # Path.glob raises where a folder goes in the meantime.
    started = {path for pattern in patterns for path in glob(f"{FOLDER}/{pattern}")} - _rays_seen
    if not started:
        return
    _rays_seen.update(started)
    request.node.user_properties.append(("rays", len(started)))
    if request.node.get_closest_marker("ray") is None:
        pytest.fail("starts Ray: expected the marker `ray` on the test")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many Rays were started, and by which tests."""
    counts = {
        report.nodeid: dict(report.user_properties)["rays"]
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and "rays" in dict(report.user_properties)
    }
    if counts:
        terminalreporter.write_line(f"Ray was started {sum(counts.values())} times")
        if terminalreporter.verbosity >= 0:
            for node, count in sorted(counts.items()):
                terminalreporter.write_line(f"  {count} {node}")
