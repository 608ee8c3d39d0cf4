"""Feature fishing: one example of a class of which clients have many."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.aggregate_capture import aggregate_captures, aggregate_truths
from atoll.attacks.threat.observation import observe, used_examples
from atoll.attacks.victims import Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.models.malicious.fishing_head import find_fishing_head
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.errors import AttackError
from atoll.strategies.malicious.feature_fishing import next_head
from tests.support.attacks.attacking import attacked
from tests.support.attacks.real_updates import client_update, copy_of

TARGET, CLIENTS, EXAMPLES, SCALE = 3, 3, 4, 300.0
LABELS = load_dataset("digits").test.labels.tolist()
# Every example of every client is of the class.
OF_CLASS = [place for place, label in enumerate(LABELS) if label == TARGET][: CLIENTS * EXAMPLES]
MODEL: dict[str, Any] = {"name": "fishing", "base": "mlp", "target": TARGET}
CLIENT = {"batch_size": 64, "learning_rate": 0.1}


def first_state() -> dict[str, Tensor]:
    data = load_dataset("digits")
    settings = ModelSettings.model_validate(MODEL)
    return copy_of(build_model(settings, data.image_shape, len(data.classes), 5))


def round_of(state: dict[str, Tensor]) -> Victim:
    """The sum of clients that were sent this model."""
    captures, truths = [], []
    for place in range(CLIENTS):
        group = OF_CLASS[place * EXAMPLES : (place + 1) * EXAMPLES]
        capture, truth = client_update(MODEL, CLIENT, group, state=state, node_id=place + 1)
        captures.append(capture)
        truths.append(used_examples(truth))
    return Victim(aggregate_captures(captures), aggregate_truths(truths))


def searched(rounds: int) -> Victim:
    """The last of some rounds, each with the threshold that the one before it gave."""
    state = first_state()
    for _ in range(rounds - 1):
        head = find_fishing_head(state)
        assert head is not None
        capture = round_of(state).capture
        weight, bias = next_head(head, capture.broadcast, capture.update, SCALE)
        state = {**state, head.weight: weight, head.bias: bias}
    return round_of(state)


def features_of(victim: Victim) -> Tensor:
    """The feature of each example, by the model that was sent."""
    observation = observe(victim.capture, build_attack("feature-fishing", {}).threat)
    head = find_fishing_head(observation.model.parameters)
    assert head is not None
    assert head.feature is not None
    inputs = observation.space.normalize(victim.truth.images)
    outputs = observation.model.module(inputs)[:, TARGET]
    bias = observation.model.parameters[head.bias][TARGET]
    found: Tensor = ((outputs - bias) / head.scale).detach()
    return found


def test_rounds_narrow_the_class_down_to_the_example_with_the_smallest_feature() -> None:
    counts, attack = [], build_attack("feature-fishing", {})
    for rounds in range(2, 8):
        victim = searched(rounds)
        head = find_fishing_head(victim.capture.broadcast)
        assert head is not None
        features = features_of(victim)
        below = int((features < head.threshold).sum())
        observation = observe(victim.capture, attack.threat)
        bias = observation.target[observation.model.names.index(head.bias)]
        others = torch.arange(len(bias)) != TARGET
        counts.append(float(bias[others].sum()) * len(features))
        assert -float(bias[TARGET]) * len(features) == pytest.approx(counts[-1], abs=0.02)
        # Whoever is within a few 1 / scale of the threshold has a part of a gradient.
        near = int(((features - head.threshold).abs() < 5.5 / SCALE).sum())
        assert abs(counts[-1] - below) <= near + 0.01
    assert all(later < earlier + 0.02 for earlier, later in itertools.pairwise(counts))
    assert counts[0] > 2
    assert counts[-1] == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_one_image_is_taken_out_of_clients_that_have_one_class() -> None:
    victim = searched(7)
    candidates = references_of(load_dataset("digits")).candidates
    smallest = int(features_of(victim).argmin())
    rows = {}
    for name in ("feature-fishing", "class-fishing"):
        attack = build_attack(name, {"steps": 150, "tv": 1e-3})
        given = victim if name == "feature-fishing" else round_of(first_state())
        observations = observe_victims([given], attack)
        [found] = attack_victims(name, attack, [given], observations, candidates=candidates)
        rows[name] = found.rows
        if name == "feature-fishing":
            assert found.reconstruction.found is not None
            assert int(found.reconstruction.found.sum()) == 1
    assert rows["feature-fishing"][smallest]["label_found"] == TARGET
    assert rows["feature-fishing"][smallest]["psnr"] > 18
    # Of twelve examples of the class class fishing has the sum.
    assert max(row["psnr"] for row in rows["class-fishing"]) < (
        rows["feature-fishing"][smallest]["psnr"] - 3
    )


def test_a_head_without_a_threshold_is_class_fishings_and_others_are_refused() -> None:
    both = [
        attacked(name, MODEL, [OF_CLASS[:2]], CLIENT, steps=3)
        for name in ("feature-fishing", "class-fishing")
    ]
    assert torch.equal(*(found[0].reconstruction.images for found in both))
    with pytest.raises(AttackError, match="does not fish for a class"):
        attacked("feature-fishing", {"name": "lenet-relu"}, [[0]])


def test_without_an_example_the_head_stays() -> None:
    state = first_state()
    head = find_fishing_head(state)
    assert head is not None
    weight, bias = next_head(head, state, state, SCALE)
    assert torch.equal(weight, state[head.weight])
    assert torch.equal(bias, state[head.bias])
