"""Flower arrays as NumPy arrays and back, without copies where none are needed.

Flower's ``Array.numpy()`` runs ``np.load`` on a copy of the bytes; here the .npy header is parsed
once per distinct header and the data are viewed where they lie.
"""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

_MAGIC_1 = b"\x93NUMPY\x01"
_SERIALISATION = "numpy.ndarray"


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    fields = ast.literal_eval(header.decode("latin1"))
    return np.dtype(fields["descr"]), fields["fortran_order"], fields["shape"]


def view(array: Array) -> NDArray[Any]:
    """Return the values of ``array`` as a read-only view of its bytes (any shape, any dtype).

    Raises
    ------
    ValueError, TypeError
        If the bytes are not one complete array, or are not of NumPy's format.
    """
    data = array.data
    if array.stype != _SERIALISATION or data[:7] != _MAGIC_1:
        return array.numpy()
    start = 10 + int.from_bytes(data[8:10], "little")
    try:
        dtype, fortran_order, shape = _parse_header(bytes(data[10:start]))
    except (SyntaxError, KeyError, TypeError) as error:
        raise ValueError(f"the array's .npy header cannot be read ({error})") from error
    # NumPy refuses to make an array of an empty buffer.
    values = np.frombuffer(data, dtype, offset=start) if start < len(data) else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran_order else "C")


@lru_cache(maxsize=4096)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def to_array(values: NDArray[Any]) -> Array:
    """Return ``values`` as a Flower ``Array``, equal to ``Array(values)``, with one copy."""
    contiguous = np.asarray(values, order="C")
    values_as_bytes = contiguous.reshape(-1).view(np.uint8).data
    data = b"".join((_header(contiguous.dtype, contiguous.shape), values_as_bytes))
    array: Array = Array.__new__(Array)
    # Flower's __init__ and __setattr__ would cost more than the copy of a small array.
    array.__dict__.update(
        dtype=str(contiguous.dtype), shape=contiguous.shape, stype=_SERIALISATION, data=data
    )
    return array


def array_record(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return ``ArrayRecord(arrays)``, without making every ``Array`` again."""
    record = ArrayRecord()
    for key, array in arrays.items():
        record[key] = array
    return record


def is_finite(values: NDArray[Any]) -> bool:
    """Tell whether no value is NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(values, axis=None)
    # A finite sum proves finite terms; a sum that overflows proves nothing.
    return math.isfinite(total) or bool(np.isfinite(values).all())
