"""Captures under secure aggregation: the sum over a round's clients, without its terms.

SecAgg+ (Bell et al., 2020; Flower's ``SecAggPlusWorkflow``) gives the server the weighted mean of
the models and the sum of the weights. Where each client takes one step on all of its examples, that
mean is what one client with everybody's examples would have sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from atoll.attacks.captures.capture import (
    MODEL_RECORD,
    SUM,
    Capture,
    Content,
    FederationInfo,
    Truth,
)
from atoll.clients.settings import ClientSettings
from atoll.errors import CaptureError


def steps_of(client: ClientSettings, examples: int) -> int:
    """Return the number of steps that a client with ``examples`` examples takes in a round."""
    return client.steps or (client.epochs or 1) * -(-examples // client.batch_size)


def keeps_clients_apart(federation: FederationInfo) -> bool:
    """Tell whether the model keeps clients apart in the sum of their updates, as LOKI's does.

    Clients then begin with different models, and may take several steps: no client could have sent
    the sum, and attacks that simulate the client are refused.
    """
    return federation.model.name == "loki"


def as_one_client(federation: FederationInfo, examples: int) -> FederationInfo:
    """Return the federation of the one client that a sum of clients is seen as.

    It has all of their examples and takes one step on them; where clients are kept apart, it trains
    as each of them does.
    """
    if keeps_clients_apart(federation):
        return replace(federation, client=federation.client.model_copy(update={"mods": ()}))
    changes = {"batch_size": examples, "steps": 1, "epochs": None, "mods": ()}
    return replace(federation, client=federation.client.model_copy(update=changes))


def aggregate_captures(captures: Sequence[Capture]) -> Capture:
    """Return the captures of a round as one: the mean reply, weighted by examples.

    Parameters
    ----------
    captures : Sequence[Capture]
        Of one round of one federation, not empty.

    Returns
    -------
    Capture
        Its client has all examples and takes one step on them; its node is the first one's. Where
        the model keeps clients apart (:func:`keeps_clients_apart`), its node is SUM.

    Raises
    ------
    CaptureError
        If they are of several rounds, or a client takes several steps on a model that does not keep
        clients apart.
    """
    first = captures[0]
    is_apart = keeps_clients_apart(first.federation)
    if len({capture.server_round for capture in captures}) > 1:
        rounds = sorted({capture.server_round for capture in captures})
        raise CaptureError(f"captures of rounds {rounds}: expected those of one round")
    for capture in captures:
        steps = steps_of(capture.federation.client, capture.examples)
        if steps > 1 and not capture.replies_gradient and not is_apart:
            raise CaptureError(
                f"{capture.directory or capture.name}: the client takes {steps} steps; the sum of "
                "clients is that of one client only where each takes one step"
            )
        if capture.update.keys() != first.update.keys():
            raise CaptureError(
                f"{capture.directory or capture.name}: the client trained other layers than "
                f"{first.name}; expected the same arrays of all"
            )
    total = sum(capture.examples for capture in captures)
    shares = [capture.examples / total for capture in captures]
    arrays = {
        key: _mean([capture.update[key] for capture in captures], shares) for key in first.update
    }
    return replace(
        first,
        node_id=SUM if is_apart else first.node_id,
        federation=as_one_client(first.federation, total),
        reply=Content({MODEL_RECORD: arrays}, {"metrics": {"num-examples": total}}),
        directory=None,
    )


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    if not values[0].is_floating_point():
        return values[0]
    mean = sum(value.double() * share for value, share in zip(values, shares, strict=True))
    assert isinstance(mean, Tensor)
    return mean.to(values[0].dtype)


def check_simulated(capture: Capture) -> None:
    """Refuse a sum that no client could have sent, of clients that began with different models.

    Raises
    ------
    CaptureError
        Saying that it cannot be simulated.
    """
    if capture.node_id == SUM and keeps_clients_apart(capture.federation):
        raise CaptureError(
            f"{capture.directory or capture.name}: its clients began with different models, and no "
            "client could have sent it; expected the attack 'loki', which simulates none"
        )


def aggregate_truths(truths: Sequence[Truth]) -> Truth:
    """Return the truths of several clients as that of one who took one step on all of it."""
    labels = torch.cat([truth.labels for truth in truths])
    return Truth(
        inputs=torch.cat([truth.inputs for truth in truths]),
        labels=labels,
        batches=(torch.arange(len(labels)),),
        seed=truths[0].seed,
        indices=torch.cat([truth.indices for truth in truths]),
    )
