"""Our array conversions against Flower's and NumPy's own."""

from __future__ import annotations

import io

import hypothesis.extra.numpy as hnp
import numpy as np
from flwr.app import Array
from hypothesis import given

from atoll.clients.arrays import problem_of, to_array, view

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
