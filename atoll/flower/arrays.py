"""Conversion of Flower arrays to NumPy arrays and back, with as few copies as possible.

Flower's ``Array.numpy()`` runs ``np.load`` on a copy of the bytes; here the .npy header is parsed
once per distinct header and the data are viewed where they lie.
"""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

_MAGIC_1 = b"\x93NUMPY\x01"
_SERIALISATION = "numpy.ndarray"


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    try:
        fields = ast.literal_eval(header.decode("latin1"))
        return np.dtype(fields["descr"]), fields["fortran_order"], fields["shape"]
    except (SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"the array's .npy header cannot be read ({error})") from error


@lru_cache(maxsize=4096)
def _header_problem(
    header: bytes, dtype: str, shape: tuple[int, ...], num_bytes: int
) -> str | None:
    """Return how a .npy header differs from what is declared beside it, or None."""
    try:
        found, _, found_shape = _parse_header(header)
    except ValueError as error:
        return str(error)
    if found.hasobject or found_shape != shape or (str(found) != dtype and dtype != "bfloat16"):
        return _differs(found, found_shape, dtype, shape)
    expected = found.itemsize * math.prod(shape)
    if num_bytes != expected:
        return f"it has {num_bytes} bytes of values, expected {expected}"
    return None


def _differs(
    found: np.dtype[Any], found_shape: tuple[int, ...], dtype: str, shape: tuple[int, ...]
) -> str:
    return f"its bytes hold {found} {found_shape}, declared are {dtype} {shape}"


def problem_of(array: Array) -> str | None:
    """Return why the values of ``array`` are not what its fields say; None if they are.

    It costs a look at the header, which is remembered, and none at the values.
    """
    data = array.data
    if array.stype != _SERIALISATION:
        return f"it is serialised as {array.stype!r}, expected {_SERIALISATION!r}"
    if data[:7] == _MAGIC_1:
        start = 10 + int.from_bytes(data[8:10], "little")
        return _header_problem(
            bytes(data[10:start]), array.dtype, tuple(array.shape), len(data) - start
        )
    try:
        values = array.numpy()
    except (ValueError, TypeError, EOFError, OSError, SyntaxError, MemoryError) as error:
        return f"its bytes are no array ({error})"
    declared = array.dtype, tuple(array.shape)
    if (str(values.dtype), values.shape) != declared:
        return _differs(values.dtype, values.shape, *declared)
    return None


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
    plain = _plain_header(data[:start]) if type(data) is bytes else None
    if plain is not None and plain[2] == len(data) - start:
        # In one call; it would take a buffer that is too long, too.
        return np.ndarray(plain[1], plain[0], data, start)
    dtype, fortran_order, shape = _parse_header(bytes(data[10:start]))
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


@lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    # NumPy takes longer to spell it than to copy a small array.
    return str(dtype)


def to_array(values: NDArray[Any]) -> Array:
    """Return ``values`` as a Flower ``Array``, equal to ``Array(values)``, with one copy."""
    contiguous = np.asarray(values, order="C")
    dtype, shape = contiguous.dtype, contiguous.shape
    # Python reads the bytes of numbers itself, but knows no dates and the like.
    is_buffer = type(contiguous) is np.ndarray and dtype.kind in "biuf"
    raw: Any = contiguous if is_buffer else contiguous.reshape(-1).view(np.uint8).data
    return array_of(_name(dtype), shape, _SERIALISATION, b"".join((_header(dtype, shape), raw)))


def array_of(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """Return ``Array(dtype, shape, stype, data)`` of fields whose types are known.

    Flower's ``__init__`` and ``__setattr__`` would cost more than the copy of a small array.
    """
    array: Array = Array.__new__(Array)
    array.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def quickly_encoded(values: NDArray[Any]) -> Array | None:
    """Return ``Array(values)`` to the last byte; None where that is for Flower itself to make.

    That is anything but a plain array of numbers: a subclass, objects, records, Fortran's order.
    """
    if type(values) is not np.ndarray or not _is_plain(values.dtype):
        return None
    flags = values.flags
    return None if flags.f_contiguous and not flags.c_contiguous else to_array(values)


def quickly_decoded(array: Array) -> NDArray[Any] | None:
    """Return ``array.numpy()``, an array that the caller may change; None as before.

    None too if a byte of the header is not as NumPy writes it, or of the values is missing.
    """
    data = array.data
    if array.stype != _SERIALISATION or type(data) is not bytes or data[:7] != _MAGIC_1:
        return None
    start = 10 + int.from_bytes(data[8:10], "little")
    plain = _plain_header(data[:start])
    if plain is None or plain[2] != len(data) - start:
        return None
    return np.ndarray(plain[1], plain[0], data, start).copy()


def quickly_recorded(state_dict: Mapping[str, Any]) -> ArrayRecord:
    """Return ``ArrayRecord.from_torch_state_dict(state_dict)``: PyTorch tensors by key.

    Raises
    ------
    TypeError
        As Flower does: if a key is no string, or NumPy has no such dtype.
    """
    for key in state_dict:
        if not isinstance(key, str):
            raise TypeError(f"Key must be of type `str` but `{type(key)}` was passed.")
    return array_record(
        {
            key: Array.from_numpy_ndarray(tensor.detach().cpu().numpy())
            for key, tensor in state_dict.items()
        }
    )


@lru_cache(maxsize=4096)
def _plain_header(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int] | None:
    """Return dtype, shape and bytes of values if this stands before plain numbers in C's order."""
    try:
        dtype, _, shape = _parse_header(head[10:])
        is_as_written = _is_plain(dtype) and _header(dtype, shape) == head
        # NumPy refuses to make an array of an empty buffer, and of a negative size.
        if not is_as_written or min(shape, default=1) < 1:
            return None
        return dtype, shape, dtype.itemsize * math.prod(shape)
    except (ValueError, TypeError, AttributeError):
        return None


def _is_plain(dtype: np.dtype[Any]) -> bool:
    return dtype.isbuiltin == 1 and dtype.kind in "biufc"


def array_record(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return ``ArrayRecord(arrays)``, without making every ``Array`` again."""
    record = ArrayRecord()
    # Assigning arrays one by one would check the types of keys and values.
    record.__dict__["_data"] = dict(arrays)
    return record


def is_finite(values: NDArray[Any]) -> bool:
    """Tell whether no value is NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(values, axis=None)
    # A finite sum proves finite terms; a sum that overflows proves nothing.
    return math.isfinite(total) or bool(np.isfinite(values).all())


_STOCK_NUMPY = Array.numpy
_STOCK_FROM_NUMPY: Callable[..., Array] = vars(Array)["from_numpy_ndarray"].__func__
_STOCK_FROM_TORCH: Callable[..., ArrayRecord] = vars(ArrayRecord)["from_torch_state_dict"].__func__


def convert_arrays_quickly() -> None:
    """Make this process's conversions between ``Array`` and NumPy (so PyTorch too) cost one copy.

    Flower writes and reads each array as a .npy file, which costs a small model more than the copy
    of its values. Types, bytes and errors stay as they are: whatever is no plain array of numbers
    is left to Flower's own methods.
    """
    quick: dict[str, Any] = {
        "numpy": _numpy,
        "from_numpy_ndarray": classmethod(_from_numpy_ndarray),
    }
    for name, method in quick.items():
        setattr(Array, name, method)
    record_method: Any = classmethod(_from_torch_state_dict)
    setattr(ArrayRecord, "from_torch_state_dict", record_method)  # noqa: B010


def _numpy(array: Array) -> NDArray[Any]:
    values = quickly_decoded(array)
    return _STOCK_NUMPY(array) if values is None else values


def _from_numpy_ndarray(cls: type[Array], ndarray: NDArray[Any]) -> Array:
    array = quickly_encoded(ndarray)
    return _STOCK_FROM_NUMPY(cls, ndarray) if array is None else array


def _from_torch_state_dict(
    cls: type[ArrayRecord], state_dict: dict[str, Any], *, keep_input: bool = True
) -> ArrayRecord:
    if cls is not ArrayRecord or not keep_input:
        return _STOCK_FROM_TORCH(cls, state_dict, keep_input=keep_input)
    return quickly_recorded(state_dict)
