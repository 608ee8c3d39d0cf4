"""A node's first driver, which is a process that can be given up.

A raylet that ``ray start`` made starts as many worker processes as the node has CPUs, and lets its
first driver in when all have registered: if one dies before, never. The driver waits for that with
Python's lock held, so that nothing in it can end the wait. Later drivers are let in at once.
"""

from __future__ import annotations

import subprocess
import sys

import ray
from ray._private import services

from atoll.errors import EngineError

# As long as a raylet gives a worker process to register.
WAIT_SECONDS = 60.0
# Nobody else's death keeps the second one out.
TRIES = 2
SCRIPT = (
    "import logging, sys, ray;"
    "ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL);"
    "ray.shutdown()"
)


def let_one_go_first(address: str, where: str) -> None:
    """See to it that this process is not the first driver on its node.

    Parameters
    ----------
    address : str
        The head's, ``HOST:PORT``; this process is in the mode of that Ray.
    where : str
        The setting that names it, for errors.

    Raises
    ------
    EngineError
        If no driver is let in.
    """
    if _has_had_drivers(address):
        return
    for _ in range(TRIES):
        try:
            # What else is wrong, this process comes upon itself, and says.
            subprocess.run(
                [sys.executable, "-c", SCRIPT, address],
                timeout=WAIT_SECONDS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            return
        except subprocess.TimeoutExpired:
            continue
    raise EngineError(
        f"{where}: this Ray answers, and has let nobody in on this node within "
        f"{TRIES * WAIT_SECONDS:g} s; expected a node whose raylet is well (start it anew)"
    )


def _has_had_drivers(address: str) -> bool:
    """Tell whether a driver has registered on this node of the cluster."""
    here = services.get_node_ip_address(address)
    jobs = ray._raylet.GcsClient(address=address).get_all_job_info(timeout=WAIT_SECONDS)
    return any(job.driver_ip_address == here for job in jobs.values())
