"""Nodes' states on disk: what is read back, what stays in memory, what is removed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import CorruptCheckpointError
from atoll.platform.messages.exchange import Chunk
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.run_directory.node_states import NodeStates, StateSnapshot, segment_path

MODEL = ArrayRecord({"w": Array(np.zeros(3, np.float32))})
NODES = st.integers(1, 6)


# A segment that is closed waits for the disk.
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(NODES, st.binary(max_size=20), st.booleans()), max_size=15),
    st.integers(1, 60),
    st.sampled_from([0, 30, 1_000]),
)
def test_a_node_has_the_state_that_was_kept_last(
    steps: list[tuple[int, bytes, bool]], segment_bytes: int, recent_bytes: int
) -> None:
    states, plain = NodeStates(segment_bytes, 0, recent_bytes), {}
    for node, state, tidies in steps:
        states[node] = plain[node] = state
        if tidies:
            states.tidy()
    assert dict(states) == plain


def test_memory_holds_an_index_and_few_states(tmp_path: Path) -> None:
    """Ten megabytes of states, and a few hundred bytes of memory a node."""
    states = NodeStates(recent_bytes=100_000)
    states.store_in(tmp_path)
    tracemalloc.start()
    for node in range(1, 5_001):
        states[node] = node.to_bytes(4, "big") * 500
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written == 5_000 * 2_000
    assert current < 5_000 * 600
    assert states[777] == (777).to_bytes(4, "big") * 500


def test_what_was_written_last_is_in_memory_and_on_disk(tmp_path: Path) -> None:
    states = NodeStates(recent_bytes=20)
    states.store_in(tmp_path)
    states[1], states[2], states[3] = b"0123456789", b"abcdefghij", b"9876543210"
    chunk = Chunk(0, (0,), (3,), (0,), ("a",), ((1,),), kept={3: states.references[3]})
    path = segment_path(tmp_path, 1)
    assert path.read_bytes() == b"0123456789abcdefghij9876543210"
    path.unlink()
    assert (states[2], states.loaded(chunk).states) == (b"abcdefghij", {3: b"9876543210"})
    with pytest.raises(CorruptCheckpointError, match="cannot be read"):
        states[1]


def test_a_snapshot_stays_as_it_was_while_its_segments_are_kept(tmp_path: Path) -> None:
    states = NodeStates(segment_bytes=10, slack_bytes=0)
    states.store_in(tmp_path)
    for node in (1, 2, 3):
        states[node] = b"before %d" % node
    snapshot = states.snapshot()
    for node in (1, 2, 3):
        states[node] = b"after %d" % node
    states.tidy(snapshot.segments)
    assert dict(snapshot) == {node: b"before %d" % node for node in (1, 2, 3)}
    states.tidy()
    assert dict(states) == {node: b"after %d" % node for node in (1, 2, 3)}
    with pytest.raises(CorruptCheckpointError, match="segment-000001: cannot be read"):
        snapshot[1]


def test_a_checkpoint_is_an_index_and_a_later_process_continues_from_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    states = NodeStates(segment_bytes=1 << 12)
    states.store_in(store.states_directory)
    for node in range(1, 200):
        states[node] = bytes([node]) * 100
    store.write(Checkpoint(1, MODEL, client_states=states.snapshot()))
    states[5] = b"of a round that was not finished"
    states.close()

    later = CheckpointStore(tmp_path / "checkpoints")
    checkpoint = later.latest()
    assert checkpoint is not None
    resumed = NodeStates(segment_bytes=1 << 12)
    resumed.store_in(later.states_directory)
    resumed.restore(checkpoint.client_states)
    assert dict(resumed) == {node: bytes([node]) * 100 for node in range(1, 200)}
    resumed[6] = b"new"
    assert resumed[6] == b"new"
    assert later.state_segments() == set(checkpoint.client_states.segments)  # type: ignore[attr-defined]


def test_states_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Checkpoints once held each node's bytes under its number."""
    resumed = NodeStates()
    resumed.restore({3: b"three", 70_000: b""})
    assert dict(resumed) == {3: b"three", 70_000: b""}


def test_damaged_segments_are_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    states = NodeStates()
    states.store_in(store.states_directory)
    states[1], states[2] = b"0123456789", b"abcdefghij"
    store.write(Checkpoint(1, MODEL, client_states=states.snapshot()))
    path = segment_path(store.states_directory, 1)
    path.write_bytes(path.read_bytes().replace(b"cde", b"xyz"))
    checkpoint = store.latest()
    assert checkpoint is not None
    assert isinstance(checkpoint.client_states, StateSnapshot)
    assert checkpoint.client_states[1] == b"0123456789"
    with pytest.raises(CorruptCheckpointError, match="differs from what was written"):
        checkpoint.client_states[2]
    path.write_bytes(path.read_bytes()[:15])
    with pytest.raises(CorruptCheckpointError, match="missing or shorter"):
        store.read(1)


def test_a_chunk_takes_its_states_from_disk_when_it_is_sent() -> None:
    states = NodeStates()
    states[4] = b"four"
    chunk = Chunk(0, (0, 1), (4, 5), (0, 0), ("a", "b"), ((1,), (1,)), kept=dict(states.references))
    assert chunk.states == {}
    sent = states.loaded(chunk)
    assert (sent.states, sent.kept) == ({4: b"four"}, {})
    assert states.loaded(chunk.part(1, 2)).states == {}


def test_states_move_with_their_folder(tmp_path: Path) -> None:
    states = NodeStates()
    states[1] = b"one"
    states.store_in(tmp_path)
    states[2] = b"two"
    assert dict(states) == {1: b"one", 2: b"two"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 6
