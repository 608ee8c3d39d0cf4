"""Lost clients: those that answered a round's queries and then failed in training.

The other clients trained on cotangents of a penalty that includes the lost clients' moments. So the
round's step is not exactly the centralised one, neither of all clients nor of the remaining ones.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flwr.app import Message

logger = logging.getLogger("atoll")

# Weights come back as sums in another order.
ROUNDING = 1e-9


def lost_share(replies: Sequence[Message], weighted_by: str, sent: float) -> float:
    """Return the weight of the lost clients in the mean of replies, in [0, 1].

    Parameters
    ----------
    replies : Sequence[Message]
        To the round's training messages, one by one or as their sum.
    weighted_by : str
        The metric that a reply is weighted by.
    sent : float
        The weights of all clients that were sent a training message.
    """
    if sent == 0.0:
        return 0.0
    came = 0.0
    for reply in replies:
        if not reply.has_error():
            metrics = next(iter(reply.content.metric_records.values()))
            came += float(metrics[weighted_by])  # type: ignore[arg-type]
    share = 1.0 - came / sent
    return share if share > ROUNDING else 0.0


def warn_of_lost_clients(server_round: int, replies: Sequence[Message], share: float) -> None:
    """Warn of the clients that failed, and of the effect on exactness."""
    nodes = sorted(reply.metadata.src_node_id for reply in replies if reply.has_error())
    named = f" (nodes {', '.join(map(str, nodes[:5]))}{', ...' if nodes[5:] else ''})"
    logger.warning(
        "round %d: clients%s that count for %.1f %% of the mean failed after their moments were "
        "measured; this round's step is not exactly the centralised one",
        server_round,
        named if nodes else "",
        100 * share,
    )
