"""Entropy-coded uploads: the code is decoded by the rule of its definition, and its size counts."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from atoll import flower
from atoll.attacks import EntropyCoding
from atoll.attacks.defenses.entropy_coding import exp_golomb
from atoll.clients.arrays.coded_uploads import CODED_BYTES, uploaded_bytes


def decoded(code: bytes, count: int) -> list[int]:
    """Read numbers one after another: zeros, a one, and as many bits as there were zeros."""
    order, bits = code[0], "".join(f"{byte:08b}" for byte in code[1:])
    numbers, place = [], 0
    for _ in range(count):
        zeros = bits.index("1", place) - place
        width = zeros + 1 + order
        # Of order k, the number's k last bits follow; they are part of its binary form.
        unsigned = int(bits[place + zeros : place + zeros + width], 2) - 2**order
        place += zeros + width
        numbers.append((unsigned + 1) // 2 if unsigned % 2 else -(unsigned // 2))
    assert len(bits) - place < 8
    assert "1" not in bits[place:]
    return numbers


@given(st.lists(st.integers(-(2**29), 2**29), max_size=40))
@pytest.mark.slow
def test_the_code_is_read_back(numbers: list[int]) -> None:
    code = exp_golomb(np.array(numbers, np.float64))
    assert decoded(code, len(numbers)) == numbers


def test_the_standards_first_codes() -> None:
    """The table of H.264, section 9.1.1: 0, 1, -1, 2, -2; many zeros make order 0 the shortest."""
    bits = "11111" + "010" + "011" + "00100" + "00101"
    expected = int(bits.ljust(24, "0"), 2).to_bytes(3, "big")
    assert exp_golomb(np.array([0.0] * 5 + [1.0, -1.0, 2.0, -2.0])) == b"\x00" + expected


def test_small_numbers_cost_a_bit_and_large_ones_find_their_order() -> None:
    assert len(exp_golomb(np.zeros(8000))) == 1 + 1000
    many = np.random.default_rng(0).integers(-1000, 1000, 8000).astype(np.float64)
    # A flat distribution over 2000 numbers has an entropy of 11 bits.
    assert 11 * 1000 < len(exp_golomb(many)) - 1 < 12.5 * 1000
    with pytest.raises(ValueError, match="expected at most"):
        exp_golomb(np.array([2.0**31]))


def reply_through(mod: EntropyCoding, change: np.ndarray) -> RecordDict:
    """Return the reply of a client that adds a change to its weights, and counts steps."""
    flower.assume_identity()
    weights = np.linspace(-1, 1, change.size, dtype=np.float32).reshape(change.shape)
    arrays = {"w": weights, "steps": np.array([3], np.int64)}

    def app(message: Message, context: Context) -> Message:
        sent = {"w": weights + change.astype(np.float32), "steps": np.array([4], np.int64)}
        record = ArrayRecord({key: Array(value) for key, value in sent.items()})
        content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    asked = ArrayRecord({key: Array(value) for key, value in arrays.items()})
    message = Message(RecordDict({"arrays": asked}), dst_node_id=1, message_type="train")
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    return mod(message, context, app).content


@pytest.mark.parametrize("of", ["update", "model"])
def test_a_reply_has_rounded_values_and_the_size_of_their_code(of: str) -> None:
    change = np.random.default_rng(1).normal(0, 0.01, (20, 30))
    content = reply_through(EntropyCoding(step=0.004, of=of), change)  # type: ignore[arg-type]
    start = np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30)
    sent = content["arrays"]["w"].numpy()
    coded = sent - (start if of == "update" else 0.0)
    np.testing.assert_allclose(coded / 0.004, np.round(coded / 0.004), atol=2e-4)
    assert np.abs(sent - (start + change)).max() <= 0.002 + 1e-6
    expected = len(exp_golomb(np.round(coded / 0.004))) + 8
    assert content["metrics"][CODED_BYTES] == expected < change.size * 4
    assert content["arrays"]["steps"].numpy().tolist() == [4]


def test_a_finer_step_costs_more_and_changes_less() -> None:
    change, sizes, errors = np.random.default_rng(2).normal(0, 0.01, (600,)), [], []
    plain = np.linspace(-1, 1, 600) + change
    for step in (1e-2, 1e-3, 1e-4):
        content = reply_through(EntropyCoding(step=step), change)
        sizes.append(content["metrics"][CODED_BYTES])
        errors.append(float(np.abs(content["arrays"]["w"].numpy() - plain).max()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_the_ledger_counts_what_a_reply_says_if_it_can_be_true() -> None:
    assert uploaded_bytes({CODED_BYTES: 12}, 400) == 12
    for said in (None, {}, {CODED_BYTES: -1}, {CODED_BYTES: [1]}, {CODED_BYTES: float("nan")}):
        assert uploaded_bytes(said, 400) == 400
