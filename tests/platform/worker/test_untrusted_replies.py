"""Malformed replies, against all that a reply goes through before a strategy sees it.

Each chunk has honest clients and one whose reply is drawn by Hypothesis. Whatever it is, every
client has an outcome with a reason, nothing is raised, and the honest ones' mean is not touched.
``ATOLL_FUZZ_EXAMPLES=10000`` tries more.
"""

from __future__ import annotations

import os
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
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll import flower
from atoll.platform.grid.exchange.replies import replies_of, settle_mismatches
from atoll.platform.messages.exchange import Chunk, Envelope, Exchange
from atoll.platform.messages.packing import pack, structure_of
from atoll.platform.worker.client_runner import ClientRunner

EXAMPLES = int(os.environ.get("ATOLL_FUZZ_EXAMPLES", "400"))
pytestmark = pytest.mark.timeout(300 + EXAMPLES)
MODEL = ArrayRecord({"w": Array(np.ones((2, 3), np.float32)), "b": Array(np.zeros(2, np.float32))})
CLIENTS, ODD = 4, 3


def honest(node_id: int) -> RecordDict:
    arrays = {k: Array(np.full(a.shape, node_id, np.float32)) for k, a in MODEL.items()}
    metrics = MetricRecord({"num-examples": 10 * node_id, "loss": 0.5})
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})


def raw(dtype: str, shape: list[int], stype: str, data: bytes) -> Array:
    return Array(dtype=dtype, shape=tuple(shape), stype=stype, data=data)


HONEST_DATA = next(iter(honest(1)["arrays"].values())).data  # type: ignore[union-attr]
HEADER = HONEST_DATA[: HONEST_DATA.index(b"\n") + 1]
DATA = st.sampled_from(
    [
        HONEST_DATA,
        HONEST_DATA[:-3],
        HONEST_DATA + b"more",
        HEADER,
        HONEST_DATA.replace(b"(2, 3)", b"(9, 9)"),
        HONEST_DATA.replace(b"(2, 3)", b"(-1,3)"),
        HONEST_DATA.replace(b"<f4", b"|O8"),
        HONEST_DATA.replace(b"<f4", b"<c8"),
        HONEST_DATA.replace(b"<f4", b"<U1"),
        HONEST_DATA.replace(b"descr", b"desc "),
        b"\x93NUMPY\x01\x00\xff\xff{}",
        b"\x93NUMPY\x01\x00\x02\x00[]",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x02\x00junk",
        b"",
        b"\x80\x04cos\nsystem\n",
        np.full((2, 3), np.nan, np.float32).tobytes(),
    ]
) | st.binary(max_size=40)
ARRAYS = st.builds(
    raw,
    st.sampled_from(["float32", "float64", "int64", "bool", "bfloat16", "object", "", "x", "<U3"]),
    st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**40]), max_size=3),
    st.sampled_from(["numpy.ndarray", "", "torch", "pickle"]),
    DATA,
) | st.sampled_from(
    [
        np.full((2, 3), np.nan, np.float32),
        np.full((2, 3), np.inf, np.float32),
        np.ones((2, 3), np.float16),
        np.ones((3, 2), np.float32),
        np.array(["a", "b"]),
        np.ones((2, 3), np.complex64),
        np.ones((2, 3), bool),
        np.zeros((0, 3), np.float32),
        np.array(1.0, np.float32),
    ]
).map(Array)
ARRAY_RECORDS = st.dictionaries(st.sampled_from(["w", "b", "c", ""]), ARRAYS, max_size=3).map(
    ArrayRecord
) | st.builds(lambda odd: ArrayRecord({"w": odd, "b": Array(np.zeros(2, np.float32))}), ARRAYS)
NUMBERS = st.sampled_from(
    [0, -1, 1, 2**62, 0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e308]
)
METRICS = st.dictionaries(
    st.sampled_from(["num-examples", "loss", "accuracy", ""]),
    NUMBERS | st.lists(st.integers(0, 3), max_size=3) | st.lists(st.floats(0, 1), max_size=3),
    max_size=4,
).map(MetricRecord) | st.just(MetricRecord({"num-examples": 7, "loss": 0.1}))
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "arrays": ARRAY_RECORDS,
        "more": ARRAY_RECORDS,
        "metrics": METRICS,
        "others": METRICS,
        "config": st.just(ConfigRecord({"a": b"\xff", "b": [1, 2]})),
    },
).map(RecordDict)
OTHER = st.sampled_from([None, 3, "text", b"bytes", [], Exception, RecordDict()])
ERRORS = st.builds(Error, st.integers(0, 300), st.sampled_from([None, "", "why", "<b>\x1b[31m"]))


class Client:
    """A ClientApp whose node ``ODD + 1`` answers what it is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.app = ClientApp()
        self.app.train()(self.train)
        self.app.evaluate()(self.train)

    def train(self, message: Message, context: Context) -> Any:
        if context.node_id != ODD + 1:
            return Message(honest(context.node_id), reply_to=message)
        if isinstance(self.answer, BaseException):
            raise self.answer
        if isinstance(self.answer, RecordDict):
            return Message(self.answer, reply_to=message)
        if isinstance(self.answer, Error):
            return Message(self.answer, reply_to=message)
        return self.answer


def exchange(*, sums: bool, weighted: bool, kind: str) -> Exchange:
    return Exchange(
        number=1,
        seed=0,
        server_round=1,
        num_partitions=CLIENTS,
        envelopes=(Envelope(0, kind, "", 100.0, 0.0),),
        expected=(structure_of(MODEL),),
        weighted_by="num-examples" if weighted else None,
        sum_replies=sums,
    )


def requests_of(content: RecordDict, kind: str) -> list[Message]:
    template = flower.InstructionTemplate(kind, "", 100.0, 0.0, "")
    return [template.message(content, node, f"1-{node}") for node in range(1, CLIENTS + 1)]


def run_chunk(answer: Any, *, sums: bool, weighted: bool, kind: str, strict: bool) -> None:
    flower.assume_identity()
    content = RecordDict({"arrays": MODEL, "config": ConfigRecord({"server-round": 1})})
    sent = exchange(sums=sums, weighted=weighted, kind=kind)
    places = tuple(range(CLIENTS))
    ids, draws = ("id",) * CLIENTS, ((1,),) * CLIENTS
    chunk = Chunk(0, places, tuple(p + 1 for p in places), (0,) * CLIENTS, ids, draws)
    runner = ClientRunner(Client(answer).app, {}, "worker-0")
    result = runner.run_chunk(sent, chunk, {0: pack(content)})
    assert [outcome.position for outcome in result.outcomes] == list(places)
    total = result.total
    if total is None:
        from atoll.clients.arrays.weighted_sum import WeightedSum

        total = WeightedSum()
    outcomes = settle_mismatches(list(result.outcomes), sent, total, strict=strict)
    for outcome in outcomes:
        assert (outcome.status == "error") == (outcome.reason is not None)
        if outcome.position != ODD:
            assert outcome.status == "ok", outcome.reason
    replies = replies_of(requests_of(content, kind), outcomes, sent, total)
    odd = outcomes[ODD]
    if sums:
        [mean, *errors] = replies
        assert len(errors) == (odd.status == "error")
        if odd.status == "error":
            weights = np.array([10.0, 20.0, 30.0])
            expected = float(weights @ [1, 2, 3] / weights.sum())
            arrays = mean.content["arrays"]
            np.testing.assert_allclose(arrays["w"].numpy(), expected, rtol=1e-6)  # type: ignore[index]
        for array in mean.content["arrays"].values():  # type: ignore[union-attr]
            assert np.isfinite(array.numpy()).all()
    elif weighted and odd.status == "ok":
        [keys] = {frozenset(r.content["metrics"]) for r in replies if r.has_content()}  # type: ignore[arg-type]
        assert "num-examples" in keys


@given(
    CONTENTS | OTHER | ERRORS | st.sampled_from([ValueError("x"), SystemExit(3), MemoryError()]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([MessageType.TRAIN, MessageType.EVALUATE]),
    st.booleans(),
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_no_reply_is_more_than_an_error_of_its_client(
    answer: Any, sums: bool, weighted: bool, kind: str, strict: bool
) -> None:
    run_chunk(answer, sums=sums, weighted=weighted or sums, kind=kind, strict=strict)
