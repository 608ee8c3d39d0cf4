"""Flower arrays as NumPy arrays and back, without copies where none are needed.

Flower's ``Array.numpy()`` runs ``np.load`` on a copy of the bytes; here the .npy header is parsed
once per distinct header and the data are viewed where they lie.
"""

from __future__ import annotations

import ast
import io
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
_SERIALISATION = "numpy.ndarray"


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    fields = ast.literal_eval(header.decode("latin1"))
    return np.dtype(fields["descr"]), fields["fortran_order"], fields["shape"]


def view(array: Array) -> NDArray[Any]:
    """Return the values of ``array`` as a read-only view of its bytes (any shape, any dtype)."""
    data = array.data
    if array.stype != _SERIALISATION or data[:6] != _MAGIC or data[6] != 1:
        return array.numpy()
    start = 10 + int.from_bytes(data[8:10], "little")
    dtype, fortran_order, shape = _parse_header(bytes(data[10:start]))
    values = np.frombuffer(data, dtype, offset=start)
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
    data = b"".join((_header(contiguous.dtype, contiguous.shape), memoryview(contiguous).cast("B")))
    array: Array = Array.__new__(Array)
    array.dtype = str(contiguous.dtype)
    array.shape = contiguous.shape
    array.stype = _SERIALISATION
    array.data = data
    return array
