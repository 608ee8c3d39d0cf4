"""Clients of a user's app that do what stock Flower survives: what becomes of each."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from atoll import flower
from atoll.platform.grid.exchange.replies import reply_of
from atoll.platform.messages.exchange import Chunk, Envelope, Exchange
from atoll.platform.messages.outcome import Outcome
from atoll.platform.messages.packing import pack, unpack
from atoll.platform.worker.client_runner import ClientRunner

NO_UTF8 = "caf\udce9"
Train = Callable[[Message, Context], Any]


def outcomes_of(train: Train, states: dict[int, bytes] | None = None) -> list[Outcome]:
    """Return the outcomes of three nodes of an app; the second runs ``train``."""

    def answer(message: Message, context: Context) -> Any:
        if context.node_id == 2:
            return train(message, context)
        return Message(RecordDict({"m": MetricRecord({"n": 1})}), reply_to=message)

    app = ClientApp()
    app.train()(answer)
    flower.assume_identity()
    sent = Exchange(
        number=1,
        seed=0,
        server_round=1,
        num_partitions=3,
        envelopes=(Envelope(0, "train", "g", 100.0, time.time()),),
        expected=(None,),
        weighted_by=None,
        sum_replies=False,
        checked=False,
    )
    ids, draws = ("1-1", "1-2", "1-3"), ((1,),) * 3
    chunk = Chunk(0, (0, 1, 2), (1, 2, 3), (0, 0, 0), ids, draws, states=states or {})
    result = ClientRunner(app, {}, "worker").run_chunk(sent, chunk, {0: pack(RecordDict())})
    first, second, third = result.outcomes
    assert first.status == third.status == "ok"
    return [first, second, third]


def reply_to_second(train: Train) -> Message | None:
    outcome = outcomes_of(train)[1]
    template = flower.InstructionTemplate("train", "g", 100.0, time.time(), "")
    flower.assume_identity()
    return reply_of(template.message(RecordDict(), 2, "1-2"), outcome, checked=False)


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ValueError(NO_UTF8), 2, r"the client raised ValueError: caf\udce9"),
        (BadText(), 2, "the client raised BadText: its text cannot be read"),
        (GeneratorExit(), 0, "the client raised GeneratorExit: "),
        (KeyboardInterrupt(), 0, "the client raised KeyboardInterrupt: "),
        (SystemExit(3), 0, "the client raised SystemExit: 3"),
        (BaseException("own"), 0, "the client raised BaseException: own"),
    ],
)
def test_what_a_client_raises_is_its_failure(error: BaseException, code: int, reason: str) -> None:
    def train(message: Message, context: Context) -> Any:
        raise error

    failure = outcomes_of(train)[1].failure
    assert failure is not None
    assert (failure.code, failure.reason) == (code, reason)
    assert (failure.details or "").encode()


def test_the_reason_of_an_error_can_be_stored() -> None:
    reply = reply_to_second(lambda message, _: Message(Error(7, NO_UTF8), reply_to=message))
    assert reply is not None
    assert (reply.error.code, reply.error.reason) == (7, r"caf\udce9")


def test_state_that_protobuf_cannot_hold_is_kept() -> None:
    seen = []

    def train(message: Message, context: Context) -> Any:
        seen.append(dict(context.state))
        context.state[NO_UTF8] = ConfigRecord({"path": NO_UTF8, "raw": b"\xff"})
        context.state["n"] = MetricRecord({"n": 2**70 + len(seen)})
        return Message(RecordDict(), reply_to=message)

    state = outcomes_of(train)[1].state
    assert state is not None
    outcomes_of(train, {2: state})
    assert seen[0] == {}
    assert seen[1] == {
        NO_UTF8: ConfigRecord({"path": NO_UTF8, "raw": b"\xff"}),
        "n": MetricRecord({"n": 2**70 + 1}),
    }


def changing(**fields: Any) -> Train:
    """Return a client whose reply has other metadata."""

    def train(message: Message, context: Context) -> Any:
        reply = Message(RecordDict({"m": MetricRecord({"n": 2})}), reply_to=message)
        vars(reply.metadata).update({f"_{name}": value for name, value in fields.items()})
        return reply

    return train


@pytest.mark.parametrize(
    ("fields", "kind", "group"),
    [
        ({}, "train", "g"),
        ({"ttl": 7.0}, "train", "g"),
        ({"message_type": "evaluate"}, "evaluate", "g"),
        ({"message_type": "own"}, "own", "g"),
        ({"group_id": ""}, "train", ""),
        ({"group_id": "other", "message_type": "query"}, "query", "other"),
    ],
)
def test_a_reply_has_the_type_and_group_that_the_client_gave_it(
    fields: dict[str, Any], kind: str, group: str
) -> None:
    reply = reply_to_second(changing(**fields))
    assert reply is not None
    assert (reply.metadata.message_type, reply.metadata.group_id) == (kind, group)
    assert reply.metadata.ttl == pytest.approx(fields.get("ttl", 100.0), abs=5.0)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"reply_to_message_id": "1-1"}, "it answers the message '1-1'"),
        ({"src_node_id": 3}, "it goes from node 3 to node 1"),
        ({"dst_node_id": 3}, "it goes from node 2 to node 3"),
        ({"delivered_at": "2020"}, "it was delivered at '2020'"),
        ({"message_type": ""}, "it has no message type"),
        ({"ttl": -5.0}, "its time to live has passed"),
        ({"created_at": time.time() - 1000}, "its time to live has passed"),
        ({"ttl": 1000.0}, "it lives longer than the message that it answers"),
    ],
)
def test_a_reply_that_flower_drops_is_none(fields: dict[str, Any], why: str) -> None:
    train = changing(**fields)
    assert reply_to_second(train) is None
    assert (outcomes_of(train)[1].reason or "").endswith(why)


class OwnMetrics(MetricRecord):
    """A class derived from a record's."""


class OwnArrays(ArrayRecord):
    """One whose constructor has other arguments."""

    def __init__(self, first: Array, second: Array) -> None:
        super().__init__({"first": first, "second": second})


class OwnDict(RecordDict):
    """A class derived from that of contents."""


def test_records_keep_their_classes() -> None:
    array = Array(np.ones(2))
    own = OwnDict({"m": OwnMetrics({"x": 1}), "a": OwnArrays(array, array), "c": ConfigRecord()})
    found = unpack(pickle.loads(pickle.dumps(pack(own))))
    assert found == own
    assert type(found) is OwnDict
    assert [type(r) for r in found.values()] == [OwnMetrics, OwnArrays, ConfigRecord]
    found["more"] = MetricRecord({"n": 1})
    with pytest.raises(TypeError):
        found["wrong"] = 1  # type: ignore[assignment]
