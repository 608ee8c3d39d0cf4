"""A look now and then at how many workers the cluster allows."""

from __future__ import annotations

import time
from collections.abc import Callable

from atoll.errors import InvalidExperimentError
from atoll.platform.cluster.capacity import Allocation

# Seconds between looks at which nodes the cluster has.
LOOK_SECONDS = 1.0


class ClusterWatch:
    """Says how many workers the cluster allows, once a second at most.

    Parameters
    ----------
    look : callable or None
        Returns the workers that the cluster allows now; None for one that does not change.
    """

    def __init__(self, look: Callable[[], Allocation] | None) -> None:
        self._look = look
        self._looked = time.monotonic()

    def allowed(self) -> Allocation | None:
        """Return the workers that the cluster allows now; None if it is too early to look."""
        now = time.monotonic()
        if self._look is None or now < self._looked + LOOK_SECONDS:
            return None
        self._looked = now
        try:
            return self._look()
        except InvalidExperimentError:
            # No node is left that holds a worker: one may come.
            return None
