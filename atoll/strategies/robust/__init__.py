"""Robust aggregation: strategies whose model a few poisoned clients cannot move at will."""

from __future__ import annotations

ROBUST_STRATEGIES: dict[str, str] = {
    name: f"atoll.strategies.robust.{place}:{name}"
    for name, place in {
        "GeometricMedian": "geometric_median",
        "CenteredClipping": "centered_clipping",
        "NormBound": "norm_bound",
        "FLTrust": "fl_trust",
        "FLAME": "flame",
    }.items()
}
