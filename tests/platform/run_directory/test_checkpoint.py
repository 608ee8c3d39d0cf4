"""Checkpoints: whole or not at all, verified, and complete enough to continue to the same bits."""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
)
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import CorruptCheckpointError, RunDirectoryError
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.array_history import ArrayHistory
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore, parameters_sha256
from atoll.platform.run_directory.state_tree import (
    StateDecoder,
    StateEncoder,
    random_states,
    restore_random_states,
)
from atoll.randomness import seed_everything
from tests.support.apps.faulty_app import app


def model() -> ArrayRecord:
    values = {
        "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "half": np.ones(3, np.float16),
        "counter": np.array(7, np.int64),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }
    record = ArrayRecord({key: Array(value) for key, value in values.items()})
    record["foreign"] = Array(dtype="?", shape=(2,), stype="xgboost", data=b"tree")
    return record


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    states = {3: b"state", 10**6: b""}
    store.write(Checkpoint(4, model(), {"x": [1, None]}, {"a": np.arange(3)}, states))
    back = store.read(4)
    assert back.server_round == 4
    assert list(back.arrays) == list(model())
    assert parameters_sha256(back.arrays) == parameters_sha256(model())
    np.testing.assert_array_equal(back.arrays["transposed"].numpy(), model()["transposed"].numpy())
    assert back.arrays["foreign"].data == b"tree"
    assert back.client_states == states
    assert back.tree["x"] == [1, None]


def test_only_the_newest_are_kept_and_nothing_half_written_shows(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for server_round in (5, 10, 15):
        store.write(Checkpoint(server_round, model()))
    assert store.rounds() == [10, 15]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-000010", "round-000015"]


def test_the_last_whole_checkpoint_outlives_a_corrupt_newer_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for server_round in (2, 4):
        CheckpointStore(tmp_path, keep=2).write(Checkpoint(server_round, model()))
    (tmp_path / "round-000004" / "state.json").write_text("{")
    latest = store.latest()
    assert latest is not None
    assert latest.server_round == 2
    # The run continues from round 2, and is killed after round 3.
    store.write(Checkpoint(3, model()))
    assert store.rounds() == [3]
    again = store.latest()
    assert again is not None
    assert again.server_round == 3


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_corrupt_checkpoint_is_found_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: str
) -> None:
    store = CheckpointStore(tmp_path)
    store.write(Checkpoint(1, model()))
    store.write(Checkpoint(2, model()))
    path = tmp_path / "round-000002" / name
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    with pytest.raises(CorruptCheckpointError, match="round-000002"):
        store.read(2)
    latest = store.latest()
    assert latest is not None
    assert latest.server_round == 1
    (tmp_path / "round-000001" / "manifest.json").unlink()
    with pytest.raises(CorruptCheckpointError, match="no checkpoint is whole"):
        store.latest()


def test_a_disk_that_cannot_be_written_to_says_so_and_keeps_the_last(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write(Checkpoint(1, model()))
    (tmp_path / "round-000002").write_text("a file where the folder must go")
    with pytest.raises(RunDirectoryError, match="round-000002.* round 1 is kept"):
        store.write(Checkpoint(2, model()))
    assert not list(tmp_path.glob(".partial*"))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_any_tree_of_plain_values_comes_back(value: object) -> None:
    encoder = StateEncoder()
    encoded = json.loads(json.dumps(encoder.value(value, "x")))
    assert StateDecoder(encoder.arrays).value(encoded) == value


class Awkward(FedAvg):
    """Holds itself, another strategy that holds it, a chain of 20,000 links, and what cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.me = self
        self.shared = [1.0]
        self.twice = [self.shared, self.shared]
        self.ring: list[object] = [{"ring": None}]
        self.ring[0]["ring"] = self.ring  # type: ignore[index]
        self.chain: object = ()
        for link in range(20_000):
            self.chain = (link, self.chain)
        self.inner = FedAvg()
        self.inner.outer = self  # type: ignore[attr-defined]
        self.lock = [threading.Lock()]
        self.inner.lock = threading.Lock()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_strategy_that_holds_itself_is_kept_as_it_is() -> None:
    old, new = Awkward(), Awkward()
    old.shared.append(2.0)
    old.inner.weighted_by_key = "weight"
    encoder = StateEncoder()
    encoded = json.loads(json.dumps(encoder.attributes(old, "strategy")))
    assert sorted(encoder.skipped) == ["strategy/inner/lock", "strategy/lock"]
    inner = new.inner
    StateDecoder(encoder.arrays).restore_attributes(new, encoded)
    assert new.me is new
    assert new.inner is inner
    assert new.inner.outer is new  # type: ignore[attr-defined]
    assert new.inner.weighted_by_key == "weight"
    assert new.shared == [1.0, 2.0]
    assert new.twice[0] is new.twice[1] is new.shared
    assert new.ring[0]["ring"] is new.ring  # type: ignore[index]
    links, chain = 0, new.chain
    while chain:
        links, chain = links + 1, chain[1]  # type: ignore[index]
    assert links == 20_000


def test_what_does_not_change_is_written_once(tmp_path: Path) -> None:
    history, store = ArrayHistory(), CheckpointStore(tmp_path, keep=2)
    public, own = np.random.default_rng(0).normal(size=200_000), np.zeros(200_000)
    sizes = []
    for server_round in (1, 2, 3):
        own[-1] = server_round
        encoder = StateEncoder(history.keep)
        tree = {"strategy": encoder.value({"public": public, "own": own}, "strategy")}
        store.write(Checkpoint(server_round, model(), tree, encoder.arrays))
        sizes.append(len(list((tmp_path / "shared").iterdir())))
    assert sizes == [2, 3, 3]
    checkpoint = store.read(2)
    values = StateDecoder(checkpoint.state_arrays).value(checkpoint.tree["strategy"])
    np.testing.assert_array_equal(values["public"], public)
    assert values["own"][-1] == 2.0
    damaged = next((tmp_path / "shared").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptCheckpointError, match="shared"):
        [store.read(server_round) for server_round in (2, 3)]


class Stateful(FedAvg):
    def __init__(self) -> None:
        super().__init__()
        self.history: deque[float] = deque([1.0, 2.0], maxlen=5)
        self.generator = np.random.default_rng(0)
        self.python = random.Random(0)
        self.torch = torch.Generator().manual_seed(0)
        self.tensor = torch.arange(3)
        self.record = MetricRecord({"a": 1.5})
        self.seen = {3, 1}
        self.network = torch.nn.Linear(2, 1)
        self.socket = object()
        self.helper = lambda: None


def test_a_strategys_state_is_restored_and_what_cannot_be_saved_is_named() -> None:
    old, new = Stateful(), Stateful()
    old.generator.random(10), old.python.random(), torch.rand(3, generator=old.torch)
    old.history.append(9.0)
    old.tensor[0] = 5
    with torch.no_grad():
        old.network.weight.zero_()
    encoder = StateEncoder()
    encoded = encoder.attributes(old, "strategy")
    assert encoder.skipped == ["strategy/socket"]
    StateDecoder(encoder.arrays).restore_attributes(new, encoded)
    assert new.generator.random() == old.generator.random()
    assert new.python.random() == old.python.random()
    assert torch.equal(torch.rand(3, generator=new.torch), torch.rand(3, generator=old.torch))
    assert list(new.history) == [1.0, 2.0, 9.0]
    assert new.history.maxlen == 5
    assert new.tensor.tolist() == [5, 1, 2]
    assert dict(new.record) == {"a": 1.5}
    assert new.seen == {1, 3}
    assert not new.network.weight.any()


def test_random_states_continue_where_they_were() -> None:
    seed_everything(3)
    encoder = StateEncoder()
    encoded = encoder.value(random_states(), "random")
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    seed_everything(4)
    restore_random_states(StateDecoder(encoder.arrays).value(encoded))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def strategies() -> dict[str, FedAvg]:
    sampling = {"fraction_train": 0.5, "fraction_evaluate": 0.3}
    return {
        "FedAvg": FedAvg(**sampling),
        "FedAdam": FedAdam(**sampling),
        "FedAvgM": FedAvgM(server_momentum=0.9, **sampling),
        "FedMedian": FedMedian(**sampling),
        "DP": DifferentialPrivacyServerSideFixedClipping(
            FedAvg(**sampling), noise_multiplier=0.1, clipping_norm=1.0, num_sampled_clients=5
        ),
    }


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("FedAdam", "DP") else pytest.mark.long)
        for name in strategies()
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def run(directory: Path, stop_after: int | None = None, workers: int = 1) -> str:
        seed_everything(7)

        def callback(record: object) -> None:
            if record.server_round == stop_after:
                raise Stop

        options = RoundOptions(
            checkpoints=CheckpointStore(directory), checkpoint_every=2, callbacks=[callback]
        )
        arrays = ArrayRecord({"w": Array(np.ones((2, 3), np.float32))})
        with RayGrid(app, 10, seed=1, workers=workers, chunk_size=3) as grid:
            result = run_rounds(
                strategies()[name], grid, arrays, 7, train_config=ConfigRecord(), options=options
            )
        assert sorted(result.train_metrics_clientapp) == list(range(1, 8))
        return parameters_sha256(result.arrays)

    undisturbed = run(tmp_path / "a")
    with pytest.raises(Stop):
        run(tmp_path / "b", stop_after=5)
    # The interrupted round 5 had ended: its state was written on the way out.
    assert CheckpointStore(tmp_path / "b").rounds()[-1] == 5
    assert run(tmp_path / "b", workers=2) == undisturbed
    assert run(tmp_path / "b") == undisturbed
