"""Reports of the cluster's autoscaler: whether there is one, and what it can bring and brings.

Nodes are not asked for here: workers that wait for a node are the autoscaler's demand. But no
public call of Ray's tells whether a cluster has an autoscaler (without one, waiting is in vain), or
what is on its way. That lies in Ray's internal tables, which ``ray status`` prints; this is the
only module that reads them. Ray has two autoscalers, and a monitor that reports like one where
there is none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import (
    _internal_kv_get,
    _internal_kv_initialized,
    internal_kv_get_gcs_client,
)

# What a node is called whose type nobody has configured, before its id.
UNCONFIGURED = "node_"
RPC_SECONDS = 10


@dataclass(frozen=True)
class AutoscalerReport:
    """Last report of the autoscaler.

    Attributes
    ----------
    coming : dict[str, int]
        Nodes that are being started, by their type.
    failures : tuple[str, ...]
        Why nodes could not be started lately.
    impossible : tuple[tuple[dict[str, float], frozenset[str]], ...]
        The resources, and the labels that a selector names, of what waits for a node and fits on
        none that it could bring (v2).
    """

    coming: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    impossible: tuple[tuple[Mapping[str, float], frozenset[str]], ...] = ()

    def __str__(self) -> str:
        coming = ", ".join(f"{count} {kind}" for kind, count in sorted(self.coming.items()))
        said = f"on their way: {coming}" if coming else "none on its way"
        return "; ".join([said, *self.failures])


@dataclass(frozen=True)
class NoAutoscaler:
    """The cluster's nodes are started by hand; nothing brings others."""


def read_report() -> AutoscalerReport | NoAutoscaler | None:
    """Return what the autoscaler said last, or None if nothing has been said yet.

    A v2 monitor without an autoscaler cannot be told from one by what it says, except that all
    that is waited for is impossible.
    """
    if not ray.is_initialized() or not _internal_kv_initialized():
        return None
    if is_autoscaler_v2():
        reply = GetClusterStatusReply()
        reply.ParseFromString(
            internal_kv_get_gcs_client().get_cluster_status(timeout_s=RPC_SECONDS)
        )
        return _report_of_v2(reply.autoscaling_state)
    said = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    return report_of_v1(json.loads(said)) if said else None


def report_of_v1(said: Mapping[str, Any]) -> AutoscalerReport | NoAutoscaler | None:
    """Return what a v1 monitor's status says."""
    report = said.get("autoscaler_report")
    if report is None:
        return None
    coming = Counter(report["pending_launches"])
    coming.update(kind for _, kind, _ in report["pending_nodes"])
    kinds = {*report["active_nodes"], *(report["idle_nodes"] or ()), *coming}
    if not kinds:
        return None
    if all(kind.startswith(UNCONFIGURED) for kind in kinds):
        return NoAutoscaler()
    availability = report["node_availability_summary"]["node_availabilities"].values()
    failures = [
        f"{one['node_type']}: {reason['category']} ({reason['description']})"
        for one in availability
        if (reason := one["unavailable_node_information"])
    ]
    return AutoscalerReport(_positive(coming), tuple(failures))


def _report_of_v2(state: Any) -> AutoscalerReport | None:
    if not state.autoscaler_state_version:
        return None
    coming: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        coming[request.ray_node_type_name] += request.count
    coming.update(instance.ray_node_type_name for instance in state.pending_instances)
    failures = [f"{one.ray_node_type_name}: {one.reason}" for one in state.failed_instance_requests]
    impossible = tuple(
        (
            dict(one.resources_bundle),
            frozenset(c.label_key for s in one.label_selectors for c in s.label_constraints),
        )
        for one in state.infeasible_resource_requests
    )
    return AutoscalerReport(_positive(coming), tuple(failures), impossible)


def _positive(counts: Counter[str]) -> dict[str, int]:
    return {kind: count for kind, count in counts.items() if count > 0}
