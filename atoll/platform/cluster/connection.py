"""The Ray cluster that a run uses: found or started, and how many workers fit on it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import ray_constants, services
from ray.exceptions import RayError
from ray.job_config import JobConfig

from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.cluster.authentication import agreed_with, own_token
from atoll.platform.cluster.first_driver import let_one_go_first
from atoll.platform.cluster.node_request import NodeRequest
from atoll.trust import is_restricted

logger = logging.getLogger("atoll")

CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
PROBE_SECONDS = 1.0
# How long a raylet may take to start, where Ray gives up after 30 s, which a busy machine exceeds.
START_SECONDS = 90.0
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": True}
# What Ray waits at the end of a process, so that the workers' last lines are printed.
LAST_LINES_SECONDS = 0.5
# Ray counts CPUs and GPUs in ten-thousandths.
SMALLEST_UNIT = 1e-4
# Beyond this many processes a GPU changes contexts more than it computes.
MOST_ON_A_GPU = 16
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


@dataclass(frozen=True)
class Allocation:
    """The workers that the cluster allows.

    Attributes
    ----------
    workers : int
        How many.
    cpus, gpus : float
        What each takes of its node, in Ray's books.
    nodes : frozenset[str]
        The Ray ids of the nodes that there are.
    """

    workers: int
    cpus: float
    gpus: float
    nodes: frozenset[str] = frozenset()


class Cluster:
    """A connection to Ray; only a Ray that it started is shut down.

    Attributes
    ----------
    started : bool
        Whether Ray was started here.
    request : NodeRequest
        What its autoscaler is asked for, if it has one.

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

    _share_told: float | None = None

    def __init__(self, address: str | None = None, cpus: float | None = None) -> None:
        self.started = False
        self.request = NodeRequest()
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

    def has_gpus(self) -> bool:
        """Tell whether a node of the cluster has a GPU."""
        return any(node["Resources"].get("GPU", 0.0) for node in _alive())

    def allocate(
        self, workers: int | Literal["auto"], cpus: float, gpus: float | Literal["auto"]
    ) -> Allocation:
        """Return the workers that fit.

        Parameters
        ----------
        workers : int or "auto"
            How many are wanted; "auto" is as many as the cluster's nodes hold.
        cpus : float
            The share of a node's CPUs that each takes. If more workers are asked for than there
            are CPUs, each takes less of a CPU (a CPU share is bookkeeping), down to Ray's
            smallest unit.
        gpus : float or "auto"
            The share of a GPU that each takes. "auto" lets as many workers on a GPU as the CPUs
            beside it allow (or ``workers`` asks for), and is 0 without GPUs.

        Raises
        ------
        InvalidExperimentError
            If GPUs are asked for that the cluster does not have, no worker fits, or so many share
            the CPUs that Ray cannot count what each has.
        """
        if 0 < cpus < SMALLEST_UNIT:
            raise InvalidExperimentError(
                f"ray.cpus_per_worker = {cpus:g}: Ray counts CPUs in units of {SMALLEST_UNIT:g}; "
                "expected 0 or at least one unit"
            )
        alive = _alive()
        ids = frozenset(node["NodeID"] for node in alive)
        nodes = [node["Resources"] for node in alive]
        if gpus == "auto":
            gpus = _gpu_share(nodes, workers, cpus)
        total_gpus = sum(node.get("GPU", 0.0) for node in nodes)
        if gpus > 0 and total_gpus == 0:
            raise InvalidExperimentError(
                f"ray.gpus_per_worker = {gpus:g}: there is no GPU in this Ray cluster; expected 0"
            )
        slots = sum(_slots(node, cpus, gpus) for node in nodes)
        has_cpus = any(node.get("CPU", 0.0) for node in nodes)
        if not has_cpus or (workers == "auto" and slots == 0):
            raise InvalidExperimentError(
                f"ray.cpus_per_worker = {cpus:g}, ray.gpus_per_worker = {gpus:g}: no node of "
                f"this Ray cluster has as much ({_describe(nodes)})"
            )
        if workers == "auto":
            return Allocation(slots, cpus, gpus, ids)
        if workers <= slots:
            return Allocation(workers, cpus, gpus, ids)
        if gpus > 0 and sum(_slots(node, 0.0, gpus) for node in nodes) < workers:
            raise InvalidExperimentError(
                f"ray.workers = {workers}: at {gpus:g} GPU a worker this Ray cluster holds fewer "
                f"({_describe(nodes)}); expected fewer workers or a smaller ray.gpus_per_worker"
            )
        share = cpus
        while sum(_slots(node, share, gpus) for node in nodes) < workers:
            share = _in_units(share / 2)
            if share < SMALLEST_UNIT:
                raise InvalidExperimentError(
                    f"ray.workers = {workers}: they would have less than {SMALLEST_UNIT:g} CPU "
                    f"each, Ray's smallest unit ({_describe(nodes)}); expected fewer workers"
                )
        if share != self._share_told:
            logger.info("%d workers share the CPUs: %g of one each", workers, share)
            self._share_told = share
        return Allocation(workers, share, gpus, ids)

    def close(self) -> None:
        """Let the nodes go that were asked for; shut Ray down if it was started here."""
        self.request.withdraw()
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


def _alive() -> list[dict[str, Any]]:
    """Return the living nodes, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def _gpu_share(nodes: list[dict[str, float]], workers: int | Literal["auto"], cpus: float) -> float:
    gpus = [(int(node.get("GPU", 0.0)), _slots(node, cpus, 0.0)) for node in nodes]
    gpus = [(count, slots) for count, slots in gpus if count]
    if not gpus:
        return 0.0
    if workers == "auto":
        on_a_gpu = min(MOST_ON_A_GPU, max(slots // count for count, slots in gpus))
    else:
        on_a_gpu = -(-workers // sum(count for count, _ in gpus))
    return 1.0 if on_a_gpu <= 1 else _in_units(1 / on_a_gpu)


def _in_units(share: float) -> float:
    """Return a share as Ray counts it, rounded down: so many workers must fit."""
    return int(share / SMALLEST_UNIT + 1e-9) / round(1 / SMALLEST_UNIT)


def _slots(node: dict[str, float], cpus: float, gpus: float) -> int:
    limits = []
    if cpus > 0:
        limits.append(int(node.get("CPU", 0.0) / cpus + 1e-9))
    if gpus > 0:
        share_per_gpu = int(1 / gpus + 1e-9) if gpus < 1 else 0
        count = node.get("GPU", 0.0)
        limits.append(int(count) * share_per_gpu if gpus < 1 else int(count / gpus + 1e-9))
    return min(limits) if limits else 1


def _describe(nodes: list[dict[str, float]]) -> str:
    found = [f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes]
    return "; ".join(sorted(found))
