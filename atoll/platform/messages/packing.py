"""Message contents on their way between processes.

Flower's arrays are ``bytes``, which Ray would copy into every pickle. Here a content travels as
flat ``uint8`` buffers that Ray keeps out of band: put into the object store once, mapped by every
worker of a machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from atoll import flower
from atoll.clients.arrays.weighted_sum import Structure, averaged_dtype
from atoll.flower.arrays import is_finite, problem_of, view

_Record = TypeVar("_Record", bound=ArrayRecord | MetricRecord | ConfigRecord | RecordDict)


@dataclass(frozen=True)
class PackedArrays:
    """An ``ArrayRecord``: per array its key, dtype, shape and serialisation, and its bytes."""

    heads: tuple[tuple[str, str, tuple[int, ...], str], ...]
    buffers: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class PackedRecords:
    """A ``RecordDict`` ready to be sent: its records in order, arrays as flat buffers."""

    records: tuple[tuple[str, type, Any], ...]
    kind: type[RecordDict] = RecordDict

    @property
    def array_bytes(self) -> int:
        """Bytes of all arrays, headers included."""
        return sum(
            sum(buffer.nbytes for buffer in body.buffers)
            for _, kind, body in self.records
            if issubclass(kind, ArrayRecord)
        )


def pack(records: RecordDict) -> PackedRecords:
    """Return ``records`` with every array as a zero-copy view of its bytes."""
    packed: list[tuple[str, type, Any]] = []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            heads = tuple((key, a.dtype, tuple(a.shape), a.stype) for key, a in record.items())
            buffers = tuple(map(_bytes_of, record.values()))
            packed.append((name, type(record), PackedArrays(heads, buffers)))
        else:
            packed.append((name, type(record), dict(record)))
    return PackedRecords(tuple(packed), type(records))


def _bytes_of(array: Array) -> NDArray[np.uint8]:
    # NumPy refuses to make an array of an empty buffer.
    return np.frombuffer(array.data, np.uint8) if array.data else np.empty(0, np.uint8)


def unpack(packed: PackedRecords) -> RecordDict:
    """Return the records that :func:`pack` took apart, with bytes of their own."""
    records = RecordDict()
    for name, kind, body in packed.records:
        if issubclass(kind, ArrayRecord):
            arrays = ArrayRecord()
            for (key, dtype, shape, stype), buffer in zip(body.heads, body.buffers, strict=True):
                arrays[key] = Array(dtype=dtype, shape=shape, stype=stype, data=buffer.tobytes())
            records[name] = _of_class(kind, arrays)
        elif issubclass(kind, MetricRecord):
            records[name] = _of_class(kind, MetricRecord(body))
        else:
            records[name] = _of_class(kind, ConfigRecord(body))
    return _of_class(packed.kind, records)


def _of_class(kind: type[Any], record: _Record) -> _Record:
    """Return a record as one of a class that is derived from its own, as unpickling would."""
    if kind is type(record):
        return record
    derived: _Record = object.__new__(kind)
    vars(derived).update(vars(record))
    return derived


def fresh_copy(records: RecordDict) -> RecordDict:
    """Return a copy that a client may change: arrays are shared (immutable), the rest is not."""
    copied = {name: record.copy() for name, record in records.items()}
    for record in copied.values():
        if not isinstance(record, ArrayRecord):
            for key, value in record.items():
                if type(value) is list:
                    record[key] = value.copy()  # type: ignore[assignment]
    return flower.with_records(records, copied)


@dataclass(frozen=True)
class Parts:
    """Single ``ArrayRecord`` and single ``MetricRecord`` of a content, with their names."""

    arrays: ArrayRecord | None = None
    metrics: MetricRecord | None = None
    arrays_name: str = ""
    metrics_name: str = ""


def parts_of(records: RecordDict) -> Parts:
    """Find the arrays and metrics of a content; None stands for none and for several."""
    arrays = [(name, r) for name, r in records.items() if isinstance(r, ArrayRecord)]
    metrics = [(name, r) for name, r in records.items() if isinstance(r, MetricRecord)]
    arrays_name, one_arrays = arrays[0] if len(arrays) == 1 else ("", None)
    metrics_name, one_metrics = metrics[0] if len(metrics) == 1 else ("", None)
    return Parts(one_arrays, one_metrics, arrays_name, metrics_name)


def broadcast_arrays(records: RecordDict) -> ArrayRecord | None:
    """Return the model in a content that goes out: its only ``ArrayRecord``, or "arrays".

    A training message may carry more than the model (a strategy's control variates, say).
    """
    named = records.get("arrays")
    return named if isinstance(named, ArrayRecord) else parts_of(records).arrays


def structure_of(arrays: ArrayRecord) -> Structure:
    """Return keys, shapes and averaged dtypes, which replies must share to be averaged."""
    return tuple((key, tuple(a.shape), averaged_dtype(a.dtype)) for key, a in arrays.items())


def is_model(structure: Structure) -> bool:
    """Tell whether the arrays can be a model's parameters: at least one is of a float dtype."""
    return any(dtype.startswith(("float", "bfloat", "complex")) for _, _, dtype in structure)


def describe_mismatch(expected: Structure, got: Structure) -> str:
    """Say in a few words how ``got`` differs from ``expected``."""
    wanted = {key: (shape, dtype) for key, shape, dtype in expected}
    found = {key: (shape, dtype) for key, shape, dtype in got}
    missing = [key for key in wanted if key not in found]
    extra = [key for key in found if key not in wanted]
    if missing or extra:
        parts = [f"missing {missing[:3]}"] if missing else []
        parts += [f"unexpected {extra[:3]}"] if extra else []
        return "wrong keys: " + ", ".join(parts)
    for key, (shape, dtype) in wanted.items():
        if found[key][0] != shape:
            return f"wrong shape of {key!r}: {found[key][0]}, expected {shape}"
        if found[key][1] != dtype:
            return f"wrong dtype of {key!r}: {found[key][1]}, expected {dtype}"
    return "wrong order of keys"


def malformed(arrays: ArrayRecord, *, numbers: bool) -> str | None:
    """Say which array is not what it says it is, or None.

    Parameters
    ----------
    numbers : bool
        Whether all must be real numbers, which can be added up; else arrays of a serialisation
        other than NumPy's are let through, unless they call themselves floats.
    """
    for key, array in arrays.items():
        is_foreign = array.stype != "numpy.ndarray" and not array.dtype.startswith("float")
        if is_foreign and not numbers:
            continue
        problem = problem_of(array)
        if problem is None and numbers and not _is_real(array.dtype):
            problem = f"it holds {array.dtype}, expected real numbers"
        if problem is not None:
            return f"{key!r} is malformed: {problem}"
    return None


@lru_cache(maxsize=64)
def _is_real(dtype: str) -> bool:
    return dtype == "bfloat16" or np.dtype(dtype).kind in "biuf"


def first_not_finite(arrays: ArrayRecord) -> str | None:
    """Return the key of the first float array that holds a NaN or an infinity."""
    for key, array in arrays.items():
        if not array.dtype.startswith("float"):
            continue
        if not is_finite(view(array)):
            return key
    return None
