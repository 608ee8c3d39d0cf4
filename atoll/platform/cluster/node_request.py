"""Request of a run to the cluster's autoscaler: nodes for the workers that it could use.

Ray keeps one request for a whole cluster: each call replaces the one before, and it stays when the
driver that made it is killed. So runs do not call Ray themselves. They have leases with a keeper,
an actor that asks for the sum of what all runs want; a lease that its driver no longer renews ends,
and its nodes are let go.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from atoll.lazy import LazyModule
from atoll.platform.cluster.autoscaler import AutoscalerReport, NoAutoscaler, read_report

logger = logging.getLogger("atoll")
# It brings the whole autoscaler along, which no process but the keeper needs.
autoscaler_sdk = LazyModule("ray.autoscaler.sdk")

KEEPER = {"name": "node-requests", "namespace": "atoll"}
# Seconds between renewals, and after which a lease that was not renewed ends.
RENEW_SECONDS, LEASE_SECONDS = 2.0, 60.0
# Seconds between the keeper's looks at the autoscaler, and a driver's at whether there is one.
LOOK_SECONDS = 1.0
# Seconds that a call of the keeper may take.
CALL_SECONDS = 10.0

Bundle = dict[str, int]


@dataclass(frozen=True)
class Wish:
    """Workers that a run could use, each with its share of a node's CPUs and GPUs."""

    workers: int
    cpus: float
    gpus: float

    def bundles(self) -> list[Bundle]:
        """Return the wish in whole CPUs and GPUs, which is what Ray can be asked for.

        Workers that share one CPU or GPU are one bundle, whose parts lie on one node.
        """
        share = self.gpus if self.gpus > 0 else self.cpus
        together = max(1, int(1 / share + 1e-9)) if share > 0 else 1
        found = []
        for first in range(0, self.workers, together):
            count = min(together, self.workers - first)
            bundle = {"CPU": _whole(count * self.cpus), "GPU": _whole(count * self.gpus)}
            found.append({name: amount for name, amount in bundle.items() if amount})
        return [bundle for bundle in found if bundle]


def _size(bundle: Bundle) -> tuple[int, int]:
    return bundle.get("GPU", 0), bundle.get("CPU", 0)


def _whole(amount: float) -> int:
    return math.ceil(amount - 1e-9)


class Largest:
    """Searches how much of a request the autoscaler can bring, where it brings all or nothing.

    Parameters
    ----------
    count : int
        How many bundles are wanted.

    Attributes
    ----------
    asked : int
        How many to ask for now: all, then what halving the doubt leads to.
    """

    def __init__(self, count: int) -> None:
        self.asked = count
        self._possible, self._impossible = 0, count + 1

    @property
    def is_settled(self) -> bool:
        """Whether it is known how many of the bundles can be brought: :attr:`asked`."""
        return self._impossible - self._possible < 2

    def answered(self, *, refused: bool) -> bool:
        """Take the answer about what was asked; return whether to ask for another number."""
        if refused:
            self._impossible = self.asked
        else:
            self._possible = self.asked
        doubt = self._impossible - self._possible
        before = self.asked
        self.asked = self._possible + doubt // 2 if doubt > 1 else self._possible
        return self.asked != before


class Leases:
    """Requests of runs, each for a limited time."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, list[Bundle]]] = {}

    def renew(self, run: str, bundles: list[Bundle], now: float) -> None:
        """Keep a run's bundles wanted for another lease; ``now`` is in seconds."""
        self._held[run] = (now + LEASE_SECONDS, bundles)

    def end(self, run: str) -> None:
        """Forget what a run wants."""
        self._held.pop(run, None)

    def wanted(self, now: float) -> list[Bundle]:
        """Return what all runs want whose leases have not run out, the smallest first.

        So what is too large for any node keeps nothing else from being asked for.
        """
        self._held = {run: lease for run, lease in self._held.items() if lease[0] > now}
        return sorted((bundle for _, wanted in self._held.values() for bundle in wanted), key=_size)


class Keeper:
    """The actor that asks for what all runs want, and ends itself when none wants anything."""

    def __init__(self) -> None:
        self._leases = Leases()
        self._wanted: list[Bundle] = []
        self._search = Largest(0)
        self._seen: set[int] = set()
        self._lock = threading.Lock()
        self._me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._watch, daemon=True).start()

    def renew(self, run: str, bundles: list[Bundle]) -> bool:
        """Keep a run's bundles wanted for another lease.

        Returns
        -------
        bool
            Whether the autoscaler has no node for any of them.
        """
        with self._lock:
            self._leases.renew(run, bundles, time.monotonic())
            self._update()
            brought = {_size(bundle) for bundle in self._wanted[: self._search.asked]}
            sizes = {_size(bundle) for bundle in bundles}
            return bool(sizes) and self._search.is_settled and not sizes & brought

    def withdraw(self, run: str) -> None:
        """End a run's lease."""
        with self._lock:
            self._leases.end(run)
            self._update()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                self._update()
                self._take_answer()
                if not self._wanted:
                    # A run that begins at this moment makes another keeper when it renews.
                    ray.kill(self._me)

    def _update(self) -> None:
        wanted = self._leases.wanted(time.monotonic())
        if wanted != self._wanted:
            self._wanted, self._search = wanted, Largest(len(wanted))
            self._ask()

    def _ask(self) -> None:
        self._seen = set()
        autoscaler_sdk.request_resources(bundles=self._wanted[: self._search.asked])

    def _take_answer(self) -> None:
        report = read_report()
        if not isinstance(report, AutoscalerReport) or not report.version:
            return
        self._seen.add(report.version)
        # What it said when it was asked, and what it was about to say, was no answer.
        if len(self._seen) > 2 and self._search.answered(refused=report.refuses):
            self._ask()


class NodeRequest:
    """A run's lease: on a cluster with an autoscaler, nodes are asked for while it is held.

    Where there is no autoscaler, nothing is asked for.

    Attributes
    ----------
    has_autoscaler : bool or None
        Whether there is one; None as long as the cluster does not say.
    is_vain : bool
        Whether the autoscaler has said that it can bring no node for any of the workers.
    """

    def __init__(self) -> None:
        self._run = os.urandom(6).hex()
        self._wish = Wish(0, 0.0, 0.0)
        self.has_autoscaler: bool | None = None
        self.is_vain = False
        self._looked = -math.inf
        self._wake, self._ended = threading.Event(), threading.Event()
        self._renewing: threading.Thread | None = None

    def ask(self, wish: Wish) -> None:
        """Ask for nodes that hold these workers, instead of those asked for before."""
        if self.has_autoscaler is None and time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            report = read_report()
            if report is not None:
                self.has_autoscaler = not isinstance(report, NoAutoscaler)
        if not self.has_autoscaler or wish == self._wish:
            return
        self._wish = wish
        self._wake.set()
        if self._renewing is None:
            self._ended.clear()
            self._renewing = threading.Thread(target=self._renew, daemon=True)
            self._renewing.start()

    def withdraw(self) -> None:
        """Let the nodes go that were asked for."""
        if self._renewing is None:
            return
        self._ended.set()
        self._wake.set()
        self._renewing.join()
        self._renewing, self._wish = None, Wish(0, 0.0, 0.0)

    def _renew(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            self.is_vain = bool(self._tell("renew", self._run, self._wish.bundles()))
            self._wake.wait(RENEW_SECONDS)
        self._tell("withdraw", self._run)

    def _tell(self, method: str, *arguments: Any) -> Any:
        if not ray.is_initialized():
            return None
        try:
            return ray.get(getattr(_keeper(), method).remote(*arguments), timeout=CALL_SECONDS)
        except Exception as error:
            # A keeper that ends at this moment, say: the next renewal makes another. Whatever else
            # ails Ray, the run itself comes upon it.
            logger.debug("no %s of nodes asked for: %s", method, error)
            return None


def _keeper() -> Any:
    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(Keeper)
        .options(
            **KEEPER,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            # With the driver, whose node is not idle.
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
        )
        .remote()
    )
