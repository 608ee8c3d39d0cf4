"""Terms of clients' objectives through the ClientApp: messages, node state, vectorised clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy

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
    TermSettings,
)
from atoll.errors import InvalidExperimentError
from atoll.strategies import SCAFFOLD, FedDyn, FedNova
from tests.support.strategies.small_federation import LocalGrid

CLIENTS = 6
ALL = {"min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
STRATEGIES = {
    "SCAFFOLD": lambda: SCAFFOLD(**ALL),
    "FedDyn": lambda: FedDyn(alpha=0.1, **ALL),
    "FedNova": lambda: FedNova(**ALL),
}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClientSpec:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    dataset = load_dataset("digits")
    partition = PartitionSettings(name="dirichlet", alpha=0.3)
    settings = DataSettings(
        dataset="digits", clients=CLIENTS, partition=partition, train_examples=300
    )
    return ClientSpec(
        dataset=dataset.directory,
        partition=partition_dataset(dataset, settings, 3).directory,
        model=ModelSettings(name="mlp", hidden=[12]),
        client=ClientSettings(learning_rate=0.1, batch_size=16, epochs=2),
        num_rounds=10,
        seed=7,
    )


class TogetherGrid(LocalGrid):
    """A grid whose clients train vectorised, all in one call."""

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        messages = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        contexts = []
        for message in messages:
            node = message.metadata.dst_node_id
            config = {"partition-id": node - 1, "num-partitions": self.nodes}
            state = self.states.setdefault(node, RecordDict())
            contexts.append(Context(1, node, config, state, {}))
        return self.app.train_together(messages, contexts)


def rounds(strategy: Strategy, grid: LocalGrid, arrays: ArrayRecord, count: int = 3) -> ArrayRecord:
    for number in range(1, count + 1):
        sent = list(strategy.configure_train(number, arrays, ConfigRecord(), grid))
        after, _ = strategy.aggregate_train(number, grid.send_and_receive(sent))
        assert after is not None
        arrays = after
    return arrays


def app_of(spec: ClientSpec) -> FederatedClientApp:
    app = make_client_app(spec)
    assert isinstance(app, FederatedClientApp)
    return app


def initial(spec: ClientSpec) -> ArrayRecord:
    return ModelArrays(build_model(spec.model, (1, 8, 8), 10, seed=1)).read()


@pytest.mark.parametrize("name", STRATEGIES)
def test_vectorised_clients_come_to_the_same_models_and_states(name: str, spec: ClientSpec) -> None:
    in_turn, together = LocalGrid(app_of(spec), CLIENTS), TogetherGrid(app_of(spec), CLIENTS)
    assert in_turn.app.can_vectorize() is None
    one = rounds(STRATEGIES[name](), in_turn, initial(spec))
    other = rounds(STRATEGIES[name](), together, initial(spec))
    for key, array in one.items():
        np.testing.assert_allclose(array.numpy(), other[key].numpy(), rtol=1e-4, atol=2e-6)
    for node, state in in_turn.states.items():
        for record, found in zip(
            state.array_records.values(),
            together.states[node].array_records.values(),
            strict=True,
        ):
            for key, array in record.items():
                # SCAFFOLD divides by the learning rate.
                np.testing.assert_allclose(array.numpy(), found[key].numpy(), rtol=1e-3, atol=2e-5)


def test_scaffold_sends_and_gets_the_model_and_a_control_variate(spec: ClientSpec) -> None:
    strategy, grid, arrays = SCAFFOLD(**ALL), LocalGrid(app_of(spec), CLIENTS), initial(spec)
    sent = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
    assert len({id(message.content) for message in sent}) == 1
    keys = list(sent[0].content["arrays"])
    assert keys == [*arrays, *(f"scaffold:{key}" for key in arrays)]
    replies = grid.send_and_receive(sent)
    assert all(list(reply.content["arrays"]) == keys for reply in replies)
    after, _ = strategy.aggregate_train(1, replies)
    assert after is not None
    assert list(after) == list(arrays)


def test_answers_that_change_a_nodes_state_are_not_summed(spec: ClientSpec) -> None:
    app, arrays = app_of(spec), initial(spec)
    for make, reason in (
        (STRATEGIES["SCAFFOLD"], "the term 'scaffold' keeps state with each node"),
        (STRATEGIES["FedNova"], None),
    ):
        (first, *_) = make().configure_train(1, arrays, ConfigRecord(), LocalGrid(app, CLIENTS))
        assert app.can_sum(first) == reason


def test_clients_with_an_adaptive_optimizer_refuse_a_correction(spec: ClientSpec) -> None:
    adam = spec.client.model_copy(update={"optimizer": "adam"})
    grid = LocalGrid(app_of(ClientSpec(**{**vars(spec), "client": adam})), CLIENTS)
    with pytest.raises(InvalidExperimentError, match=r"SCAFFOLD corrects plain gradient steps"):
        rounds(SCAFFOLD(**ALL), grid, initial(spec), count=1)


def test_terms_of_the_settings_say_why_clients_are_not_vectorised(spec: ClientSpec) -> None:
    client = spec.client.model_copy(update={"objective": (TermSettings(name="sam"),)})
    app = app_of(ClientSpec(**{**vars(spec), "client": client}))
    assert app.can_vectorize() == (
        "client.objective has 'sam': it has no form for several clients at once"
    )
    message = Message(
        RecordDict({"arrays": initial(spec), "config": ConfigRecord()}),
        dst_node_id=1,
        message_type="train",
    )
    assert app.can_sum(message) is None
