"""Updates arrive when their clients are done, and weigh less the older they are."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.errors import InvalidExperimentError
from atoll.flower.arrays import view
from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from tests.support.strategies.layer_federation import LayerFederation, experiment

pytestmark = pytest.mark.slow

KEY = "blocks.1.from_image.weight"
NAME = "AsynchronousLayerwise"


def federation(**strategy):
    return LayerFederation(experiment(strategy={"name": NAME, **strategy}))


def value(record):
    return np.array(view(record[KEY]), np.float64)


@pytest.mark.slow
def test_without_delays_it_is_the_synchronous_strategy():
    now = federation(buffer_size=4).run_round()
    expected = LayerFederation(experiment()).run_round()
    for key in expected.after:
        assert np.allclose(view(now.after[key]), view(expected.after[key]), atol=1e-5), key
    assert now.metrics["layer_versions"] == [1, 1, 1]


@pytest.mark.slow
def test_a_slow_clients_update_arrives_later_with_the_weight_of_its_age():
    running = federation(delays=[1, 1, 1, 2], staleness_exponent=1.0)
    first = running.run_round()
    assert len(first.replies) == 4
    assert first.metrics["under_way"] == 1
    slow = first.replies[3]
    change = value(slow.content["arrays"]) - value(first.before)
    second = running.run_round()
    # The slow client was busy; its update is one version old in every layer.
    assert [m.metadata.dst_node_id for m in second.messages] == [1, 2, 3]
    weights = [r.content["metrics"]["num-examples"] for r in [*second.replies, slow]]
    changes = [value(r.content["arrays"]) - value(second.before) for r in second.replies]
    changes.append(change / 2)
    mean = sum(w * c for w, c in zip(weights, changes, strict=True)) / sum(weights)
    assert np.allclose(value(second.after), value(second.before) + mean, atol=1e-6)
    assert second.metrics["mean_age"] == pytest.approx(1 / 4)


@pytest.mark.slow
def test_an_old_update_leaves_no_variance_below_zero():
    # In four epochs most variances shrink to a few hundredths of 1, where they begin: an update
    # that is a version old would take that from them once more.
    sections = {"client": {"epochs": 4}, "data": {"train_examples": 900}}
    running = LayerFederation(experiment(strategy={"name": NAME, "delays": [1, 2]}, **sections))
    first, second = running.run_round(), running.run_round()
    assert second.metrics["mean_age"] > 0
    old = [first.replies[1], first.replies[3]]
    for key in (key for key in second.after if key.endswith("running_var")):
        now, after = (np.array(view(r[key]), np.float64) for r in (second.before, second.after))
        assert after.min() >= 0, key
        sent = [np.array(view(r.content["arrays"][key]), np.float64) for r in old]
        moved = [now + 0.5**0.5 * (value - now) for value in sent]
        moved += [np.array(view(r.content["arrays"][key])) for r in second.replies]
        weights = [r.content["metrics"]["num-examples"] for r in [*old, *second.replies]]
        mean = sum(w * m for w, m in zip(weights, moved, strict=True)) / sum(weights)
        assert np.allclose(after, mean, atol=1e-6), key


@pytest.mark.slow
def test_a_layer_waits_until_its_buffer_is_full():
    running = federation(buffer_size=6)
    first = running.run_round()
    assert first.metrics["layer_versions"] == [0, 0, 0]
    assert np.array_equal(value(first.before), value(first.after))
    second = running.run_round()
    assert second.metrics["layer_versions"] == [1, 1, 1]
    assert second.metrics["layer_clients"] == [8, 8, 8]
    assert not np.array_equal(value(second.before), value(second.after))


def test_older_updates_weigh_less():
    weight = federation(staleness_exponent=0.5).strategy.staleness_weight
    assert [weight(age) for age in (0, 3)] == [1.0, 0.5]
    assert federation(staleness_exponent=0.0).strategy.staleness_weight(7) == 1.0


@pytest.mark.slow
def test_updates_under_way_survive_a_checkpoint():
    straight = federation(delays=[1, 3])
    straight.run_round()
    encoder = StateEncoder()
    tree = encoder.attributes(straight.strategy, "strategy")
    assert encoder.skipped == []
    resumed = federation(delays=[1, 3])
    resumed.arrays, resumed.rounds = straight.arrays, 1
    StateDecoder(encoder.arrays).restore_attributes(resumed.strategy, tree)
    for _ in range(2):
        one, other = straight.run_round(), resumed.run_round()
        assert np.array_equal(value(one.after), value(other.after))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"delays": [0]}, "strategy.delays = \\[0\\]: expected greater than 0"),
        ({"delays": []}, "strategy.delays = \\[\\]: expected"),
        ({"delays": 3}, "strategy.delays = 3: expected"),
        ({"delays": ["soon"]}, "strategy.delays = \\['soon'\\]: expected a valid integer"),
        ({"buffer_size": "two"}, "strategy.buffer_size = 'two': expected a valid integer"),
        ({"staleness_exponent": "no"}, "strategy.staleness_exponent = 'no': expected a valid"),
        ({"buffer_size": 0}, "strategy.buffer_size = 0"),
        ({"staleness_exponent": -1.0}, "strategy.staleness_exponent = -1.0"),
    ],
)
def test_bad_input_is_refused_with_its_key(argument, message):
    with pytest.raises(InvalidExperimentError, match=message):
        federation(**argument)
