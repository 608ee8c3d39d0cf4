"""The connection to the Ray cluster that a run uses, which is found or started."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray.exceptions import RayError
from ray.job_config import JobConfig

from atoll.errors import EngineError
from atoll.platform.cluster.authentication import agreed_with, own_token
from atoll.platform.cluster.first_driver import let_one_go_first
from atoll.user_code.trust import is_restricted

CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
PROBE_SECONDS = 1.0
# How long a raylet may take to start, where Ray gives up after 30 s, which a busy machine exceeds.
START_SECONDS = 90.0
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": True}
# What Ray waits at the end of a process, so that the workers' last lines are printed.
LAST_LINES_SECONDS = 0.5
# A chunk's sum of a small model is some hundred kilobytes: sent along with the reply it spares the
# object store's bookkeeping, which costs more than the clients' own overhead.
SYSTEM_CONFIG = {
    "max_direct_call_object_size": 1 << 20,
    "task_rpc_inlined_bytes_limit": 1 << 27,
    "enable_metrics_collection": False,
    "free_objects_batch_size": 1,
    # Ray would let no driver in before as many workers as there are CPUs have registered, and wait
    # for ever if one of them dies before.
    "prestart_worker_first_driver": False,
}


class Cluster:
    """A connection to Ray; only a Ray that it started is shut down.

    Attributes
    ----------
    started : bool
        Whether Ray was started here.

    Parameters
    ----------
    address : str or None
        The address of a running Ray, or "local" to start one; None uses the one that this process
        is connected to, what ``RAY_ADDRESS`` says, one that ``ray start`` made on this machine, or
        starts one.
    cpus : float or None
        CPUs to declare if Ray is started here; None is as many as this machine has.

    Raises
    ------
    EngineError
        If no Ray answers at ``address``, it does not let this process in, or none can be started.
    """

    def __init__(self, address: str | None = None, cpus: float | None = None) -> None:
        self.started = False
        self._undo = ExitStack()
        if ray.is_initialized():
            return
        address = address or os.environ.get("RAY_ADDRESS")
        found = None if address else _running_here()
        if found:
            _connect_to_found(found)
        elif address and address != "local":
            _connect(address)
        else:
            self._start(cpus)

    def _start(self, cpus: float | None) -> None:
        # Ray would let its workers yield to every other process of the machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
        own: dict[str, Any] = {} if cpus is None else {"num_cpus": cpus}
        settings = {"include_dashboard": False, "_system_config": SYSTEM_CONFIG}
        with ExitStack() as undo:
            undo.enter_context(own_token())
            with _on_loopback(), patient_start():
                try:
                    ray.init(address="local", **settings, **own, **QUIET, **_search_path())
                except Exception as error:  # Ray raises a bare one when its start took too long
                    raise EngineError(
                        f"Ray did not start on this machine ({error}); expected a machine with "
                        "processor time, memory and space in its temporary folder to spare"
                    ) from error
            self._undo = undo.pop_all()
        self.started = True

    def close(self) -> None:
        """Shut Ray down if it was started here."""
        if self.started and ray.is_initialized():
            time.sleep(LAST_LINES_SECONDS)
            ray.shutdown()
        self._undo.close()
        self.started = False


def _connect(address: str) -> None:
    """Connect this process to a running Ray.

    Raises
    ------
    EngineError
        If no Ray answers, it does not take this process's token, or does not let it in.
    """
    where = f"ray.address = {address!r}"
    try:
        with ExitStack() as undo:
            if "://" not in address:
                head = services.canonicalize_bootstrap_address_or_die(address)
                undo.enter_context(agreed_with(head, where))
                let_one_go_first(head, where)
            ray.init(address=address, **QUIET, **_search_path())
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise EngineError(f"{where}: no Ray answers ({error})") from error


def _connect_to_found(address: str) -> None:
    """Connect to a Ray that was found on this machine, which may be another user's."""
    try:
        _connect(address)
    except EngineError as error:
        raise EngineError(
            f"{error}; it was started on this machine with 'ray start': RAY_ADDRESS=local starts "
            "another for this run alone"
        ) from error


class _Fixed(list[str]):
    """A list that nothing is added to."""

    def extend(self, more: Iterable[str]) -> None:
        """Add nothing."""


def _search_path() -> dict[str, Any]:
    """Return what keeps the current folder off the front of workers' search path.

    Ray puts it there, before what is installed. While another person's run is resumed it may be
    theirs; workers get the driver's path anyway (worker_setup.py), with the folder last.
    """
    if not is_restricted() or Path.cwd() == Path(__file__).resolve().parents[3]:
        return {}
    config = JobConfig()
    config._py_driver_sys_path = _Fixed()
    return {"job_config": config}


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Within this context Ray starts with servers that listen on loopback only.

    That is its own way on macOS and Windows, where nodes do not form clusters. On Linux its
    servers would listen on every address of the machine, without any authentication.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(CLUSTER_SWITCH)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[CLUSTER_SWITCH] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        os.environ.pop(CLUSTER_SWITCH)
        if before[1] is not None:
            os.environ[CLUSTER_SWITCH] = before[1]


@contextmanager
def patient_start() -> Iterator[None]:
    """Within this context a raylet has :data:`START_SECONDS` to start."""
    ask = services.get_node

    def get_node(*arguments: Any) -> Any:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PROBE_SECONDS / 10)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ask


def _running_here() -> str | None:
    """Return the address of a Ray that ``ray start`` made on this machine, if it still answers.

    Ray would look it up by itself, and wait for minutes for one that was killed.
    """
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        address = note.read_text().strip()
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, ValueError):
        return None
    return address
