"""Our array conversions against Flower's and NumPy's own."""

from __future__ import annotations

import io

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given

from atoll.flower.arrays import (
    problem_of,
    quickly_decoded,
    quickly_encoded,
    quickly_recorded,
    to_array,
    view,
)

ARRAYS = hnp.arrays(
    hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.boolean_dtypes(),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@given(ARRAYS)
def test_to_array_is_what_flower_makes(values: np.ndarray) -> None:
    ours, theirs = to_array(values), Array(values)
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
    loaded = np.load(io.BytesIO(ours.data), allow_pickle=False)
    np.testing.assert_array_equal(loaded, values)
    assert loaded.dtype == values.dtype
    assert problem_of(ours) is problem_of(theirs) is None


@given(ARRAYS)
def test_view_is_what_flower_reads(values: np.ndarray) -> None:
    for stored in (values, np.asfortranarray(values)):
        np.testing.assert_array_equal(view(Array(stored)), values)


def test_an_array_that_is_not_what_it_declares_is_found() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    good = to_array(values)
    assert problem_of(good) is None
    assert problem_of(Array(np.asfortranarray(values))) is None

    def altered(**fields: object) -> str:
        kept = {"dtype": good.dtype, "shape": good.shape, "stype": good.stype, "data": good.data}
        return problem_of(Array(**{**kept, **fields})) or ""  # type: ignore[arg-type]

    assert "declared are float32 (3, 2)" in altered(shape=(3, 2))
    assert "declared are float64 (2, 3)" in altered(dtype="float64")
    assert "it has 23 bytes of values, expected 24" in altered(data=good.data[:-1])
    assert "serialised as 'torch'" in altered(stype="torch")
    assert "its bytes are no array" in altered(data=b"junk")
    assert "cannot be read" in altered(data=good.data.replace(b"descr", b"desc "))
    assert "its bytes hold object" in altered(data=good.data.replace(b"<f4", b"|O8"))


def records(array: Array) -> tuple[object, ...]:
    return array.dtype, array.shape, array.stype, array.data, type(array), type(array.data)


ODD = [
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6, dtype=">f4"),
    np.zeros(2, [("a", "i4"), ("b", "f8")]),
    np.array(["a", "bcd"]),
    np.array([b"a"]),
    np.zeros(2, "datetime64[s]"),
    np.ma.masked_array([1.0, 2.0], [True, False]),
    np.arange(12.0).reshape(3, 4).T,
    np.arange(12.0).reshape(3, 4)[::-1, ::2],
    np.zeros((0, 3), np.float32),
    np.array(3.0),
    np.ones(3, np.longdouble),
    np.ones(3, np.complex64),
]


@given(ARRAYS)
def test_quick_conversions_are_flowers(values: np.ndarray) -> None:
    check_quick_conversions(values)


@pytest.mark.parametrize(
    "values", ODD, ids=lambda values: f"{type(values).__name__} {values.dtype}"
)
def test_quick_conversions_of_odd_arrays_are_flowers_or_left_to_it(values: np.ndarray) -> None:
    check_quick_conversions(values)


def check_quick_conversions(values: np.ndarray) -> None:
    theirs = Array(values)
    ours = quickly_encoded(values)
    if ours is not None:
        assert ours == theirs
        assert records(ours) == records(theirs)
    read, quickly = theirs.numpy(), quickly_decoded(theirs)
    if quickly is None:
        return
    assert quickly.tobytes() == read.tobytes()
    assert (quickly.dtype, quickly.shape, quickly.strides) == (read.dtype, read.shape, read.strides)
    # Whether what was read owns its memory differs between versions of NumPy.
    for flag in ("c_contiguous", "f_contiguous", "writeable", "aligned"):
        assert quickly.flags[flag.upper()] == read.flags[flag.upper()]
    assert type(quickly) is type(read)


def test_a_plain_array_is_converted_quickly() -> None:
    for values in (np.ones((2, 3), np.float32), np.array(2), np.zeros(4, bool)):
        array = quickly_encoded(values)
        assert array is not None
        assert quickly_decoded(array) is not None


def test_bytes_that_numpy_would_refuse_are_left_to_it() -> None:
    good = Array(np.arange(6, dtype=np.float32).reshape(2, 3))
    data = good.data
    for wrong in (
        b"",
        b"junk",
        data[:-1],
        data + b"\0",
        data.replace(b"descr", b"desc "),
        data.replace(b"(2, 3)", b"(6,1) "),
        data.replace(b"(2, 3)", b"(-2,3)"),
        data.replace(b"(2, 3)", b"(2, a)"),
        data.replace(b"<f4", b"|O8"),
        data.replace(b"False", b"True "),
        data.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x02"),
    ):
        assert quickly_decoded(Array(good.dtype, good.shape, good.stype, wrong)) is None
    assert quickly_decoded(Array(good.dtype, good.shape, "torch", data)) is None


def test_what_was_decoded_may_be_changed() -> None:
    array = Array(np.zeros(3, np.float32))
    first = quickly_decoded(array)
    assert first is not None
    first += 1
    np.testing.assert_array_equal(quickly_decoded(array), np.zeros(3))


def test_a_state_dict_is_recorded_as_flower_records_it() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    state = model.half().state_dict(keep_vars=True) | {
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2, dtype=torch.int8),
    }
    theirs, ours = ArrayRecord.from_torch_state_dict(state), quickly_recorded(state)
    assert ours == theirs
    assert list(ours) == list(theirs)
    ours["another"] = theirs["scalar"]
    assert len(theirs) == len(ours) - 1


@pytest.mark.parametrize(
    "state", [{1: torch.zeros(2)}, {"half": torch.zeros(2, dtype=torch.bfloat16)}], ids=str
)
def test_a_state_dict_that_flower_refuses_is_refused(state: dict[str, torch.Tensor]) -> None:
    errors = []
    for record in (ArrayRecord.from_torch_state_dict, quickly_recorded):
        with pytest.raises(TypeError) as raised:
            record(state)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
