"""Serialised records: the bytes are those of Flower's own conversion."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from atoll.flower import dump_records, load_records

RECORDS = {
    "nothing": RecordDict(),
    "empty": RecordDict({"a": ArrayRecord(), "m": MetricRecord(), "c": ConfigRecord()}),
    "all kinds": RecordDict(
        {
            "a": ArrayRecord({"w": Array(np.ones((2, 3), np.float32)), "s": Array(np.array(1))}),
            "m": MetricRecord({"n": 1, "f": 0.5, "l": [1.0, 2.0]}),
            "c": ConfigRecord({"t": "ü", "raw": b"\x00", "on": True, "l": ["a"]}),
            "b": ArrayRecord({"": Array(np.zeros((0, 2)))}),
        }
    ),
    "foreign": RecordDict({"a": ArrayRecord({"x": Array("int4", (3, 2), "packed", b"")})}),
}


@pytest.mark.parametrize("name", RECORDS)
def test_bytes_are_flowers(name: str) -> None:
    records = RECORDS[name]
    wanted = recorddict_to_proto(records).SerializeToString(deterministic=True)
    assert dump_records(records) == wanted
    assert load_records(wanted) == records


NO_UTF8 = "caf\udce9"
BEYOND_PROTOBUF = {
    "integer": RecordDict({"m": MetricRecord({"n": 2**70, "all": [1, -(2**65)], "f": 0.1})}),
    "text": RecordDict({"c": ConfigRecord({"p": NO_UTF8, "raw": b"\xff", "raws": [b"", b"a"]})}),
    "name": RecordDict({NO_UTF8: ConfigRecord({NO_UTF8: [NO_UTF8], "on": True, "none": []})}),
    "arrays": RecordDict(
        {
            NO_UTF8: ArrayRecord({"w": Array(np.ones((2, 1))), "x": Array("i4", (3,), "own", b"")}),
            "m": MetricRecord({"inf": float("inf"), "ints": [1, 2], "floats": [0.5]}),
        }
    ),
}


@pytest.mark.parametrize("name", BEYOND_PROTOBUF)
def test_what_protobuf_cannot_hold_comes_back(name: str) -> None:
    records = BEYOND_PROTOBUF[name]
    found = load_records(dump_records(records))
    assert found == records
    for record, wanted in zip(found.values(), records.values(), strict=True):
        assert type(record) is type(wanted)
        assert [type(v) for v in record.values()] == [type(v) for v in wanted.values()]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"3",
        b"[[1]]",
        b'[["a", "metrics", 3]]',
        b'[["a", "metrics", [["b", "text"]]]]',
        b'[["a", "config", [["b", {"byte": "AA=="}]]]]',
        b'[["a", "arrays", [["b", "f4", 3, "own", {"bytes": ""}]]]]',
        b'[["a", "arrays", [["b", "f4", [3], "own", {"bytes": "A"}]]]]',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_text_that_is_something_else_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="the records cannot be read"):
        load_records(b"\x00records:" + text)
