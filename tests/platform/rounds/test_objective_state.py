"""Clients' corrections on Ray: state that outlasts a killed run, and stock Flower's arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord

from atoll.clients.apps.client_app import ClientSpec, FederatedClientApp, make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.partitioning.partition import partition_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import (
    ClientSettings,
    DataSettings,
    ModelSettings,
    PartitionSettings,
)
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import (
    Checkpoint,
    CheckpointStore,
    parameters_sha256,
)
from atoll.platform.run_directory.node_states import NodeStates
from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from atoll.platform.worker.node_context import client_context, kept_of
from atoll.strategies import SCAFFOLD, uses_mean_only
from tests.support.strategies.small_federation import LocalGrid

NODES, ROUNDS = 6, 4
ALL = {"min_train_nodes": 4, "min_available_nodes": NODES, "fraction_evaluate": 0.0}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederatedClientApp]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_CACHE", str(tmp_path_factory.mktemp("cache")))
        dataset = load_dataset("digits")
        partition = PartitionSettings(name="dirichlet", alpha=0.3)
        settings = DataSettings(
            dataset="digits", clients=NODES, partition=partition, train_examples=300
        )
        spec = ClientSpec(
            dataset=dataset.directory,
            partition=partition_dataset(dataset, settings, 3).directory,
            model=ModelSettings(name="mlp", hidden=[12]),
            client=ClientSettings(learning_rate=0.1, batch_size=16, epochs=1),
            num_rounds=ROUNDS,
            seed=7,
        )
        made = make_client_app(spec)
        assert isinstance(made, FederatedClientApp)
        yield made


def initial() -> ArrayRecord:
    model = build_model(ModelSettings(name="mlp", hidden=[12]), (1, 8, 8), 10, seed=1)
    return ModelArrays(model).read()


def strategy() -> SCAFFOLD:
    return SCAFFOLD(fraction_train=1.0, **ALL)  # type: ignore[arg-type]


def test_a_strategy_and_its_nodes_continue_from_a_checkpoint(
    app: FederatedClientApp, tmp_path: Path
) -> None:
    """The same as below without workers: what a checkpoint holds is all that matters."""

    def rounds(
        made: SCAFFOLD, states: NodeStates, arrays: ArrayRecord, numbers: range
    ) -> ArrayRecord:
        grid = LocalGrid(app, NODES)
        for number in numbers:
            replies = []
            sent = made.configure_train(number, arrays, ConfigRecord(), grid)
            # The engine's order, whatever the order in which nodes were drawn.
            for message in sorted(sent, key=lambda m: m.metadata.dst_node_id):
                node = message.metadata.dst_node_id
                context = client_context(node, NODES, {}, states.get(node))
                replies.append(app(message, context))
                kept = kept_of(context, NODES)
                assert kept is not None
                states[node] = kept
            after, _ = made.aggregate_train(number, replies)
            assert after is not None
            arrays = after
        return arrays

    store, first, states = CheckpointStore(tmp_path), strategy(), NodeStates()
    states.store_in(store.states_directory)
    arrays = rounds(first, states, initial(), range(1, 3))
    encoder = StateEncoder()
    tree = {"strategy": encoder.attributes(first, "strategy")}
    assert encoder.skipped == []
    store.write(Checkpoint(2, arrays, tree, encoder.arrays, states.snapshot()))
    whole = rounds(first, states, arrays, range(3, 5))
    states.close()

    checkpoint = CheckpointStore(tmp_path).latest()
    assert checkpoint is not None
    second, resumed = strategy(), NodeStates()
    decoder = StateDecoder(checkpoint.state_arrays)
    decoder.restore_attributes(second, checkpoint.tree["strategy"])
    resumed.store_in(store.states_directory)
    resumed.restore(checkpoint.client_states)
    ended = rounds(second, resumed, checkpoint.arrays, range(3, 5))
    assert parameters_sha256(ended) == parameters_sha256(whole)
    forgotten = rounds(strategy(), NodeStates(), checkpoint.arrays, range(3, 5))
    assert parameters_sha256(forgotten) != parameters_sha256(whole)


class KilledError(Exception):
    """The end of a driver in the middle of a round."""


@pytest.mark.long
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(
    cluster: None, app: FederatedClientApp, tmp_path: Path
) -> None:
    def finish(folder: Path, rounds: int, workers: int) -> str:
        store = CheckpointStore(folder)
        options = RoundOptions(checkpoints=store, checkpoint_every=1)
        with RayGrid(app, NODES, seed=7, workers=workers, chunk_size=2) as grid:
            result = run_rounds(strategy(), grid, initial(), rounds, options=options)
            assert len(grid.states) == NODES
        assert result.arrays is not None
        return parameters_sha256(result.arrays)

    def kill(folder: Path) -> None:
        class Killed(SCAFFOLD):
            # As its parent: the sums of workers are rounded otherwise than a mean of replies.
            @uses_mean_only
            def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
                if server_round == 3:
                    # The nodes' states of this round are on disk already.
                    raise KilledError
                return super().aggregate_train(server_round, replies)

        options = RoundOptions(checkpoints=CheckpointStore(folder), checkpoint_every=1)
        with RayGrid(app, NODES, seed=7, workers=1, chunk_size=2) as grid:
            killed = Killed(fraction_train=1.0, **ALL)  # type: ignore[arg-type]
            with pytest.raises(KilledError):
                run_rounds(killed, grid, initial(), ROUNDS, options=options)

    undisturbed = finish(tmp_path / "whole", ROUNDS, workers=2)
    kill(tmp_path / "killed")
    assert CheckpointStore(tmp_path / "killed").rounds()[-1] == 2
    assert finish(tmp_path / "killed", ROUNDS, workers=1) == undisturbed


def test_sums_in_workers_are_flowers_own_aggregation(
    cluster: None, app: FederatedClientApp
) -> None:
    with RayGrid(app, NODES, seed=7, workers=2) as grid:
        ours = run_rounds(strategy(), grid, initial(), ROUNDS)
    plain, arrays, local = strategy(), initial(), LocalGrid(app, NODES)
    for number in range(1, ROUNDS + 1):
        sent = list(plain.configure_train(number, arrays, ConfigRecord(), local))
        after, _ = plain.aggregate_train(number, local.send_and_receive(sent))
        assert after is not None
        arrays = after
    assert ours.arrays is not None
    for key, array in ours.arrays.items():
        np.testing.assert_allclose(array.numpy(), arrays[key].numpy(), rtol=1e-4, atol=1e-6)
