"""Each layer is averaged over the clients that trained it, by a strategy of its own."""

from __future__ import annotations

import re

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from atoll.clients.noprop.block_training.training_memory import ClientMemory
from atoll.clients.noprop.layer_keys import keys_by_layer, layer_of
from atoll.clients.noprop.networks.design import Design
from atoll.clients.settings import ClientSettings
from atoll.errors import EngineError, InvalidExperimentError
from atoll.flower.arrays import view
from atoll.platform.run_directory.state_tree import (
    StateDecoder,
    StateEncoder,
    random_states,
    restore_random_states,
)
from tests.support.strategies.layer_federation import CLIENTS, LayerFederation, experiment

pytestmark = pytest.mark.slow


def arrays_of(reply):
    return reply.content["arrays"]


def weight_of(reply):
    return reply.content["metrics"]["num-examples"]


def values(record):
    return {key: np.array(view(array), np.float64) for key, array in record.items()}


def same(one, other):
    return all(np.array_equal(view(one[key]), view(other[key])) for key in one)


def test_each_layer_is_the_mean_over_the_clients_that_trained_it():
    federation = LayerFederation(experiment(strategy={"layers_per_client": 2}))
    done = federation.run_round()
    assert done.metrics["layer_clients"] == [3, 3, 2]
    assert done.metrics["layer_versions"] == [1, 1, 1]
    for key, array in done.after.items():
        own = [reply for reply in done.replies if key in arrays_of(reply)]
        weights = [weight_of(reply) for reply in own]
        trained = [values(arrays_of(reply))[key] for reply in own]
        expected = sum(w * t for w, t in zip(weights, trained, strict=True)) / sum(weights)
        assert np.allclose(view(array), expected, atol=1e-6), key


def test_clients_get_and_send_nothing_but_their_layers_and_the_shared_part():
    federation = LayerFederation(experiment(strategy={"layers_per_client": 1}))
    done = federation.run_round()
    for message, reply in zip(done.messages, done.replies, strict=True):
        sent, got = message.content["arrays"], arrays_of(reply)
        assert sent.keys() == got.keys()
        layers = {layer_of(key) for key in sent}
        assert layers == {None, *reply.content["metrics"]["layers"]}
        assert len(layers) == 2


def test_what_a_client_makes_of_a_layer_does_not_depend_on_its_other_layers():
    few = LayerFederation(experiment(strategy={"layers_per_client": 1})).run_round()
    many = LayerFederation(experiment()).run_round()
    for one, other in zip(few.replies, many.replies, strict=True):
        assert len(arrays_of(one)) < len(arrays_of(other))
        assert same(arrays_of(one), arrays_of(other))


def test_batch_norms_statistics_travel_with_their_layer():
    federation = LayerFederation(experiment())
    done = federation.run_round()
    statistics = [key for key in done.after if key.endswith("running_mean")]
    assert {layer_of(key) for key in statistics} == {0, 1, 2}
    assert all(not np.array_equal(view(done.before[k]), view(done.after[k])) for k in statistics)


def test_a_servers_optimiser_averages_statistics_and_keeps_every_type():
    inner = {"name": "FedAdam", "eta": 0.5}
    done = LayerFederation(experiment(strategy={"strategy": inner})).run_round()
    key = "blocks.1.top.0.running_var"
    weights = [weight_of(reply) for reply in done.replies]
    sent = [values(arrays_of(reply))[key] for reply in done.replies]
    mean = sum(w * v for w, v in zip(weights, sent, strict=True)) / sum(weights)
    assert np.allclose(view(done.after[key]), mean, atol=1e-6)
    for name, array in done.after.items():
        assert array.dtype == done.before[name].dtype, name


def test_a_round_without_a_layer_leaves_it_as_it_was():
    asked = experiment(strategy={"layers_per_client": 1}, data={"clients": 2})
    done = LayerFederation(asked).run_round()
    assert done.metrics["layer_clients"] == [1, 1, 0]
    assert done.metrics["layer_versions"] == [1, 1, 0]
    for key in keys_by_layer(done.after)[2]:
        assert np.array_equal(view(done.before[key]), view(done.after[key]))


def test_a_layers_fedadam_has_a_state_of_its_own():
    inner = {"name": "FedAdam", "eta": 0.01, "beta_1": 0.9, "beta_2": 0.99}
    asked = experiment(strategy={"strategy": inner, "layers_per_client": 1}, data={"clients": 2})
    federation = LayerFederation(asked)
    done = federation.run_round()
    moments = [federation.strategy.strategies.of(layer).m_t for layer in (0, 1, 2)]
    assert moments[2] is None
    assert moments[0].keys() & moments[1].keys() == set()
    key = "blocks.0.from_image.weight"
    (reply,) = [r for r in done.replies if key in arrays_of(r)]
    before, trained = values(done.before)[key], values(arrays_of(reply))[key]
    change = trained - before
    # Flower's FedAdam, whose bias correction counts rounds from 1 on.
    rate = 0.01 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    step = rate * 0.1 * change / (np.sqrt(0.01 * change**2) + 1e-3)
    assert np.allclose(view(done.after[key]), before + step, atol=1e-5)


def test_fedprox_reaches_the_clients():
    plain = LayerFederation(experiment()).run_round()
    inner = {"name": "FedProx", "proximal_mu": 10.0}
    near = LayerFederation(experiment(strategy={"strategy": inner})).run_round()

    def moved(done):
        return sum(
            float(np.abs(np.array(view(done.after[k])) - view(done.before[k])).sum())
            for k in done.after
            if k.endswith("weight")
        )

    assert moved(near) < 0.9 * moved(plain)


def test_memory_decides_how_many_layers_a_client_has():
    asked = experiment()
    design = Design.of(asked.model, (1, 8, 8), 10)
    memory = ClientMemory(design, asked.client)
    budgets = [memory.needed(layers) / 1e6 + 0.01 for layers in (1, 3)]
    federation = LayerFederation(experiment(client={"memory_mb": budgets}))
    done = federation.run_round()
    assert federation.strategy.capacities == {1: 1, 2: 3, 3: 1, 4: 3}
    for reply in done.replies:
        metrics = reply.content["metrics"]
        place = (reply.metadata.src_node_id - 1) % 2
        assert len(metrics["layers"]) == (1, 3)[place]
        assert metrics["peak-memory"] <= budgets[place] * 1e6


def test_the_clients_memory_is_the_training_of_one_block_and_the_layers_it_holds():
    design = Design.of(experiment().model, (1, 8, 8), 10)
    small, large = (ClientMemory(design, ClientSettings(batch_size=b)) for b in (16, 64))
    block = sum(t.numel() * t.element_size() for t in design.make_block().state_dict().values())
    assert small.needed(3) - small.needed(2) == 2 * block
    assert large.needed(1) - small.needed(1) > 0
    assert small.fitting(None) == 3
    assert small.fitting(small.needed(2)) == 2
    assert small.fitting(small.needed(1) - 1) == 0


def test_a_strategy_continues_from_a_checkpoint_to_the_same_bits():
    inner = {"name": "FedAdam", "eta": 0.01}
    asked = experiment(strategy={"strategy": inner, "layers_per_client": 2})
    straight = LayerFederation(asked)
    straight.run_round()
    encoder = StateEncoder()
    tree = encoder.attributes(straight.strategy, "strategy")
    assert encoder.skipped == []
    resumed = LayerFederation(asked)
    resumed.arrays, resumed.rounds = straight.arrays, 1
    StateDecoder(encoder.arrays).restore_attributes(resumed.strategy, tree)
    states = random_states()
    expected = straight.run_round()
    restore_random_states(states)
    assert same(expected.after, resumed.run_round().after)


def test_a_trained_embedding_moves_in_a_federation_and_does_not_collapse():
    asked = experiment(model={"embedding": "learned", "dimension": 20}, strategy={})
    done = LayerFederation(asked).run_round()
    before, after = (values(r)["shared.embedding"] for r in (done.before, done.after))
    assert not np.array_equal(before, after)
    distances = np.linalg.norm(after[:, None] - after[None], axis=-1) + 10 * np.eye(10)
    assert distances.min() > 0.5


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"client": {"memory_mb": [0.01]}}, "0.01 MB hold no layer; expected at least"),
        ({"model": {"embedding": "prototype"}}, "model.embedding = 'prototype': prototypes are"),
        (
            {"strategy": {"layers_per_client": 0}},
            "strategy.layers_per_client = 0: expected greater",
        ),
        (
            {"strategy": {"layers_per_client": "two"}},
            "strategy.layers_per_client = 'two': expected a valid integer",
        ),
        (
            {"strategy": {"strategy": "FedAvg"}},
            "strategy.strategy = 'FedAvg': expected the table of a strategy",
        ),
        (
            {"client": {"memory_mb": [-1.0]}},
            "client.memory_mb = -1.0: expected greater",
        ),
        (
            {"strategy": {"strategy": {"name": "HGP"}}},
            "strategy.strategy: HGP looks at the whole model",
        ),
    ],
)
def test_bad_input_is_refused_with_its_key(sections, message):
    with pytest.raises(InvalidExperimentError, match=message):
        LayerFederation(experiment(**sections))


def test_a_model_without_layers_to_train_apart_is_refused():
    tables = experiment().to_dict()
    tables["model"] = {"name": "mlp"}
    with pytest.raises(InvalidExperimentError, match="model.name = 'mlp': its layers cannot be"):
        LayerFederation(type(experiment()).from_dict(tables))


def test_every_client_takes_part():
    done = LayerFederation(experiment()).run_round()
    assert len(done.replies) == CLIENTS


class Answers:
    """A grid whose capacity queries fail, or come back with a number of blocks."""

    def __init__(self, grid, said):
        self.grid, self.said = grid, said

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            said = self.said[message.metadata.dst_node_id]
            if isinstance(said, str):
                replies.append(Message(Error(code=3, reason=said), reply_to=message))
            elif said is not None:
                metrics = MetricRecord({"blocks": said, "memory": -1.0})
                replies.append(Message(RecordDict({"metrics": metrics}), reply_to=message))
        return replies


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            ["timed out", *["the worker died\nits log"] * 3],
            "no sampled client can be given a layer: 4 of 4 did not say what they hold, 3 of them "
            "with: the worker died",
        ),
        ([None] * 4, "4 of 4 did not say what they hold, 4 of them with: no reply"),
        (
            ["the worker died", 0, 0, 0],
            "1 of 4 did not say what they hold, 1 of them with: the worker died; the others have "
            "memory for none",
        ),
        ([0, 0, 0, 0], "no sampled client has memory for a layer"),
    ],
)
def test_without_a_capacity_the_error_says_what_the_queries_said(said, message):
    federation = LayerFederation(experiment())
    grid = Answers(federation.grid, dict(enumerate(said, 1)))
    with pytest.raises(EngineError, match=re.escape(message)) as caught:
        federation.strategy.configure_train(1, federation.arrays, ConfigRecord(), grid)
    assert "\n" not in str(caught.value)


def empty(reply):
    """Make a reply one of a client without examples."""
    reply.content["metrics"]["num-examples"] = 0
    reply.content["metrics"]["loss"] = 0.0
    return reply


@pytest.mark.parametrize("name", ["Layerwise", "AsynchronousLayerwise"])
@pytest.mark.parametrize("inner", ["FedAvg", "FedAdam"])
def test_a_layer_whose_clients_have_no_examples_stays(name, inner):
    asked = experiment(
        strategy={"name": name, "layers_per_client": 1, "strategy": {"name": inner}},
        data={"clients": 3},
    )
    federation = LayerFederation(asked)
    config = ConfigRecord()
    messages = federation.strategy.configure_train(1, federation.arrays, config, federation.grid)
    replies = federation.grid.send_and_receive(messages)
    emptied = {r.content["metrics"]["layers"][0]: r for r in replies}
    empty(emptied[1])
    after, metrics = federation.strategy.aggregate_train(1, replies)
    assert metrics["layer_versions"] == [1, 0, 1]
    assert metrics["layer_clients"] == [1, 0, 1]
    for layer, keys in keys_by_layer(after).items():
        stays = all(np.array_equal(view(after[k]), view(federation.arrays[k])) for k in keys)
        assert stays is (layer == 1)
    assert np.isfinite(metrics["loss"])


def test_a_round_of_nothing_but_empty_clients_leaves_the_model():
    federation = LayerFederation(experiment())
    config = ConfigRecord()
    messages = federation.strategy.configure_train(1, federation.arrays, config, federation.grid)
    replies = [empty(r) for r in federation.grid.send_and_receive(messages)]
    assert federation.strategy.aggregate_train(1, replies) == (None, None)
    assert federation.strategy.versions == [0, 0, 0]
