"""Waiting for Ray's results, as long as the driver's own node lives.

Ray itself waits on when that node has died: for workers that no node will ever start.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from atoll.errors import EngineError

# So often it is asked whether the node is there, while nothing else comes.
CHECK_SECONDS = 20.0
# What others of a run do at once may take so long on a machine that is overloaded.
ANSWER_SECONDS = 300.0


def wait_for_one(references: Sequence[Any], seconds: float | None = None) -> list[Any]:
    """Return a reference whose result is here, in a list, or an empty list.

    Parameters
    ----------
    references : Sequence[ObjectRef]
        At least one.
    seconds : float, optional
        How long to wait at most; None waits on.

    Raises
    ------
    EngineError
        If the node that this process is on has died.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        patience = CHECK_SECONDS if left is None else min(CHECK_SECONDS, left)
        ready, _ = ray.wait(list(references), num_returns=1, timeout=patience, fetch_local=True)
        if ready or left == patience:
            return list(ready)
        check_own_node()


def get(reference: Any) -> Any:
    """Return a result that is there or on its way, as ``ray.get`` does.

    Raises
    ------
    EngineError
        If the node that this process is on has died.
    RayError
        If that is the result.
    """
    while True:
        try:
            return ray.get(reference, timeout=CHECK_SECONDS)
        except GetTimeoutError:
            check_own_node()


def answer(reference: Any, who: str, seconds: float = ANSWER_SECONDS) -> Any:
    """Return what another process of the run answers, which does so at once if it is well.

    Parameters
    ----------
    reference : ObjectRef or list[ObjectRef]
        The answer.
    who : str
        Who is asked, for the error.
    seconds : float
        How long to wait.

    Raises
    ------
    EngineError
        If it has not answered by then, or has died.
    """
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise EngineError(
            f"{who} has not answered within {seconds:g} s; is there a node of the cluster that "
            "hangs, or has no memory or processor time to spare?"
        ) from error
    except RayTaskError:
        raise
    except RayError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EngineError(f"{who} has ended ({reason})") from error


def check_own_node() -> None:
    """Raise an ``EngineError`` if the node that this process is on has died."""
    here = ray.get_runtime_context().get_node_id()
    if any(node["NodeID"] == here and not node["Alive"] for node in ray.nodes()):
        raise EngineError(
            "the Ray node that this process is on has died (its raylet was killed, or the machine "
            "ran out of memory or was too busy); what was computed is kept: start it again, a run "
            "by 'atoll resume'"
        )
