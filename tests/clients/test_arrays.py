"""Our array conversions against Flower's and NumPy's own."""

from __future__ import annotations

import io

import hypothesis.extra.numpy as hnp
import numpy as np
from flwr.app import Array
from hypothesis import given, settings

from atoll.clients.arrays import to_array, view

ARRAYS = hnp.arrays(
    hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.boolean_dtypes(),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@given(ARRAYS)
@settings(deadline=None)
def test_to_array_is_what_flower_makes(values: np.ndarray) -> None:
    ours, theirs = to_array(values), Array(values)
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
    loaded = np.load(io.BytesIO(ours.data), allow_pickle=False)
    np.testing.assert_array_equal(loaded, values)
    assert loaded.dtype == values.dtype


@given(ARRAYS)
@settings(deadline=None)
def test_view_is_what_flower_reads(values: np.ndarray) -> None:
    for stored in (values, np.asfortranarray(values)):
        np.testing.assert_array_equal(view(Array(stored)), values)
