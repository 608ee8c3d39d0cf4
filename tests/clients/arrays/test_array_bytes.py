import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from atoll.flower.arrays import array_record, to_array, view


def test_view_copies_nothing() -> None:
    array = to_array(np.arange(10.0))
    assert np.shares_memory(view(array), np.frombuffer(array.data, np.uint8))
    assert not view(array).flags.writeable


def test_what_is_not_contiguous_goes_out_in_order() -> None:
    values = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    np.testing.assert_array_equal(to_array(values).numpy(), values)


@pytest.mark.parametrize(
    "values",
    [np.ones((3, 2), np.float32), np.array(5), np.zeros((0, 4)), np.array([True, False])],
)
def test_the_object_id_is_flowers(values: np.ndarray) -> None:
    assert to_array(values).object_id == Array(values).object_id


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-3],
        lambda data: data + b"1234567",
        lambda data: data[:4],
        lambda data: b"",
        lambda data: data[:10] + b"(" * (len(data) - 10),
        lambda data: data.replace(b"'<f4'", b"'<q9'"),
        lambda data: data.replace(b"'<f4'", b"'|O8'"),
        lambda data: data.replace(b"'shape'", b"'shale'"),
    ],
)
def test_damaged_bytes_are_refused(spoil) -> None:
    data = spoil(to_array(np.ones(5, np.float32)).data)
    with pytest.raises((ValueError, EOFError)):
        view(Array(dtype="float32", shape=(5,), stype="numpy.ndarray", data=data))


def test_array_record_equals_flowers() -> None:
    arrays = {"a": to_array(np.ones(3)), "b": to_array(np.zeros((2, 2), np.int64))}
    assert array_record(arrays) == ArrayRecord(dict(arrays))


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint64", ">f4", "float16", "float64", "complex64", "M8[D]", "S3"]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3)])
def test_bytes_are_flowers_for_every_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, dtype)
    array = to_array(values)
    assert array == Array(values)
    found = view(array)
    assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, shape, values.tobytes())
