"""Classes of Opacus by name, imported when one is used.

Checks before a run import the defenses, and Opacus takes seconds to import.
"""

from __future__ import annotations

from typing import Any

from atoll.registry import Registry

OPACUS: Registry[Any] = Registry(
    "class of Opacus",
    {
        "DPOptimizer": "opacus.optimizers:DPOptimizer",
        "GradSampleModule": "opacus:GradSampleModule",
        "ModuleValidator": "opacus.validators:ModuleValidator",
        "RDPAccountant": "opacus.accountants:RDPAccountant",
    },
)
