"""Records as text, for values that Flower's protobuf messages cannot hold.

Those are integers beyond 64 bits and strings with lone surrogates (file names that are no UTF-8),
which stock Flower's simulation passes on and keeps as they are.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from atoll.flower.arrays import array_of, array_record

# No protobuf message begins with this byte.
MARK = b"\x00records:"
_BYTES = "bytes"


def dump_as_text(records: RecordDict) -> bytes:
    """Return records as JSON after :data:`MARK`."""
    found = [[name, *_written(record)] for name, record in records.items()]
    return MARK + json.dumps(found).encode("ascii")


def load_from_text(data: bytes) -> RecordDict:
    """Read what :func:`dump_as_text` wrote.

    Raises
    ------
    ValueError
        If it is something else.
    """
    records = RecordDict()
    try:
        for name, kind, body in json.loads(data.removeprefix(MARK)):
            records[name] = _read(kind, body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the records cannot be read ({error})") from error
    return records


def _written(record: Any) -> tuple[str, Any]:
    if isinstance(record, ArrayRecord):
        arrays = [
            [key, array.dtype, list(array.shape), array.stype, _plain(array.data)]
            for key, array in record.items()
        ]
        return "arrays", arrays
    kind = "metrics" if isinstance(record, MetricRecord) else "config"
    return kind, [[key, _plain(value)] for key, value in record.items()]


def _read(kind: str, body: Any) -> ArrayRecord | MetricRecord | ConfigRecord:
    if kind == "arrays":
        return array_record(
            {
                key: array_of(dtype, tuple(shape), stype, _value(data))
                for key, dtype, shape, stype, data in body
            }
        )
    values = {key: _value(value) for key, value in body}
    return MetricRecord(values) if kind == "metrics" else ConfigRecord(values)


def _plain(value: Any) -> Any:
    """Return a value in JSON's types; bytes are objects."""
    if isinstance(value, bytes | bytearray):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value[_BYTES])
    if isinstance(value, list):
        return [_value(item) for item in value]
    return value
