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
