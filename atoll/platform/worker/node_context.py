"""The ``Context`` that a simulated node's client is called with, and what the node keeps of it."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Context, RecordDict

from atoll import flower

# The record that stands for a changed node configuration, beside those of the state.
NODE_CONFIG = "atoll.node-config"


def client_context(
    node_id: int, num_partitions: int, run_config: dict[str, Any], kept: bytes | None = None
) -> Context:
    """Return the ``Context`` of a simulated node: node ``i`` holds partition ``i - 1``.

    Parameters
    ----------
    kept : bytes, optional
        What :func:`kept_of` returned when the node's last message had been answered.
    """
    state = RecordDict() if kept is None else flower.load_records(kept)
    changed = state.pop(NODE_CONFIG, None)
    node_config = _node_config(node_id, num_partitions)
    if changed is not None:
        node_config = dict(changed)
    return Context(
        run_id=flower.RUN_ID,
        node_id=node_id,
        node_config=node_config,
        state=state,
        run_config=run_config,
    )


def kept_of(context: Context, num_partitions: int, *, had: bool = False) -> bytes | None:
    """Return what a node keeps for its next message; None if its context is as at the start.

    As on stock Flower that is its state, and its node configuration where the client changed it.

    Parameters
    ----------
    had : bool
        Whether something is kept already, which an empty state replaces.

    Raises
    ------
    TypeError
        If the client put something into its node configuration that no ``ConfigRecord`` holds.
    """
    is_changed = context.node_config != _node_config(context.node_id, num_partitions)
    if not is_changed:
        return flower.dump_records(context.state) if had or context.state else None
    record = ConfigRecord(dict(context.node_config))
    return flower.dump_records(RecordDict({**context.state, NODE_CONFIG: record}))


def _node_config(node_id: int, num_partitions: int) -> dict[str, Any]:
    return {"partition-id": node_id - 1, "num-partitions": num_partitions}
