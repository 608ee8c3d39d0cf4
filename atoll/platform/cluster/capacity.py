"""The capacity of a Ray cluster: its nodes, and how many workers they hold.

It is the one place that asks Ray for nodes and their CPUs and GPUs. Counted is what nodes have, not
what is free: workers that find their node taken by others wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from atoll.errors import InvalidExperimentError
from atoll.platform.config.label_selector import admits

# Ray counts CPUs and GPUs in ten-thousandths.
SMALLEST_UNIT = 1e-4
# Beyond this many processes a GPU changes contexts more than it computes.
MOST_ON_A_GPU = 16

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Allocation:
    """The workers that the cluster allows, and what each takes of its node.

    Attributes
    ----------
    workers : int
        How many the nodes hold that are there.
    cpus, gpus : float
        What each takes of its node, in Ray's books.
    label_selector : Mapping[str, str]
        The labels that its node has.
    nodes : frozenset[str]
        The Ray ids of the nodes that workers may be on.
    awaiting_nodes : int
        How many more would have work, and wait for nodes that an autoscaler brings.
    """

    workers: int
    cpus: float
    gpus: float
    nodes: frozenset[str] = frozenset()
    label_selector: Mapping[str, str] = field(default_factory=dict)
    awaiting_nodes: int = 0

    def options(self) -> dict[str, Any]:
        """Return what a worker takes as the options of a Ray actor."""
        taken: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.label_selector:
            taken["label_selector"] = dict(self.label_selector)
        return taken


@dataclass(frozen=True)
class WorkerRequest:
    """The workers that are asked for.

    Attributes
    ----------
    workers : int or "auto"
        How many; "auto" is as many as the cluster's nodes hold.
    cpus : float
        The share of a node's CPUs that each takes.
    gpus : float or "auto"
        The share of a GPU that each takes. "auto" lets as many workers on a GPU as the CPUs
        beside it allow (or ``workers`` asks for), and is 0 without GPUs.
    label_selector : Mapping[str, str]
        The labels of the nodes that they are placed on, in Ray's syntax.
    """

    workers: int | Literal["auto"] = "auto"
    cpus: float = 1.0
    gpus: float | Literal["auto"] = "auto"
    label_selector: Mapping[str, str] = field(default_factory=dict)


def living_nodes(label_selector: Mapping[str, str] | None = None) -> dict[str, Resources]:
    """Return the resources of the living nodes that a selector admits, by their Ray ids."""
    return {
        node["NodeID"]: node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and admits(label_selector or {}, node.get("Labels", {}))
    }


def allocate(request: WorkerRequest, *, shares_cpus: bool = True) -> Allocation:
    """Return the workers that fit on the nodes that there are.

    Parameters
    ----------
    request : WorkerRequest
        The workers that are asked for.
    shares_cpus : bool
        Whether each takes less of a CPU (a CPU share is bookkeeping), down to Ray's smallest
        unit, where more workers are asked for than there are CPUs. If not, those that fit are
        returned: the others can wait for nodes.

    Raises
    ------
    InvalidExperimentError
        If GPUs are asked for that the cluster does not have, no node has the labels, no worker
        fits, or so many share the CPUs that Ray cannot count what each has.
    """
    cpus, selector = request.cpus, request.label_selector
    if 0 < cpus < SMALLEST_UNIT:
        raise InvalidExperimentError(
            f"ray.cpus_per_worker = {cpus:g}: Ray counts CPUs in units of {SMALLEST_UNIT:g}; "
            "expected 0 or at least one unit"
        )
    found = living_nodes(selector)
    nodes = list(found.values())
    if selector and not nodes:
        raise InvalidExperimentError(
            f"ray.label_selector = {dict(selector)}: no node of this Ray cluster has these labels "
            f"({_describe_labels(selector)})"
        )
    gpus = _gpu_share(nodes, request) if request.gpus == "auto" else request.gpus
    if gpus > 0 and not any(node.get("GPU", 0.0) for node in nodes):
        raise InvalidExperimentError(
            f"ray.gpus_per_worker = {gpus:g}: there is no GPU in this Ray cluster"
            f"{_with_labels(selector)}; expected 0"
        )
    slots = _slots(nodes, cpus, gpus)
    wanted = slots if request.workers == "auto" else request.workers
    has_cpus = any(node.get("CPU", 0.0) for node in nodes)
    if not has_cpus or (slots == 0 and (request.workers == "auto" or not shares_cpus)):
        raise InvalidExperimentError(
            f"ray.cpus_per_worker = {cpus:g}, ray.gpus_per_worker = {gpus:g}: no node of "
            f"this Ray cluster{_with_labels(selector)} has as much ({_describe(nodes)})"
        )
    if wanted > slots and shares_cpus:
        cpus = _shared_cpus(nodes, wanted, cpus, gpus)
    else:
        wanted = min(wanted, slots)
    return Allocation(wanted, cpus, gpus, frozenset(found), selector)


def _shared_cpus(nodes: list[Resources], workers: int, cpus: float, gpus: float) -> float:
    """Return the share of a CPU with which so many workers fit."""
    if gpus > 0 and _slots(nodes, 0.0, gpus) < workers:
        raise InvalidExperimentError(
            f"ray.workers = {workers}: at {gpus:g} GPU a worker this Ray cluster holds fewer "
            f"({_describe(nodes)}); expected fewer workers or a smaller ray.gpus_per_worker"
        )
    while _slots(nodes, cpus, gpus) < workers:
        cpus = _in_units(cpus / 2)
        if cpus < SMALLEST_UNIT:
            raise InvalidExperimentError(
                f"ray.workers = {workers}: they would have less than {SMALLEST_UNIT:g} CPU "
                f"each, Ray's smallest unit ({_describe(nodes)}); expected fewer workers"
            )
    return cpus


def _gpu_share(nodes: list[Resources], request: WorkerRequest) -> float:
    found = [(int(node.get("GPU", 0.0)), _slots([node], request.cpus, 0.0)) for node in nodes]
    with_gpus = [(count, slots) for count, slots in found if count]
    if not with_gpus:
        return 0.0
    if request.workers == "auto":
        on_a_gpu = min(MOST_ON_A_GPU, max(slots // count for count, slots in with_gpus))
    else:
        on_a_gpu = -(-request.workers // sum(count for count, _ in with_gpus))
    return 1.0 if on_a_gpu <= 1 else _in_units(1 / on_a_gpu)


def _in_units(share: float) -> float:
    """Return a share as Ray counts it, rounded down: so many workers must fit."""
    return int(share / SMALLEST_UNIT + 1e-9) / round(1 / SMALLEST_UNIT)


def _slots(nodes: list[Resources], cpus: float, gpus: float) -> int:
    """Return how many workers the nodes hold; none spans two of them."""
    return sum(_slots_of(node, cpus, gpus) for node in nodes)


def _slots_of(node: Resources, cpus: float, gpus: float) -> int:
    limits = []
    if cpus > 0:
        limits.append(int(node.get("CPU", 0.0) / cpus + 1e-9))
    if gpus > 0:
        share_per_gpu = int(1 / gpus + 1e-9) if gpus < 1 else 0
        count = node.get("GPU", 0.0)
        limits.append(int(count) * share_per_gpu if gpus < 1 else int(count / gpus + 1e-9))
    return min(limits) if limits else 1


def _describe(nodes: list[Resources]) -> str:
    found = [f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes]
    return "; ".join(sorted(found))


def _with_labels(selector: Mapping[str, str]) -> str:
    return f" with the labels {dict(selector)}" if selector else ""


def _describe_labels(selector: Mapping[str, str]) -> str:
    """Return the values that nodes have of the labels that a selector names."""
    seen: dict[str, set[str]] = {key: set() for key in selector}
    for node in ray.nodes():
        for key in selector:
            if node["Alive"] and key in node.get("Labels", {}):
                seen[key].add(node["Labels"][key])
    return "; ".join(
        f"{key}: {', '.join(sorted(values)) or 'on no node'}" for key, values in seen.items()
    )
