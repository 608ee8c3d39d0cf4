"""What a client of a NoProp federation sends: simulated, replayed, attacked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from atoll.attacks.base.attack import Attack
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.capture_validation.replay import diagnose
from atoll.attacks.captures.capture import Capture, Truth
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.labels import infer_labels
from atoll.attacks.threat.observation import observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.victims import Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import AttackError, CaptureError
from tests.support.attacks.digit_generator import digit_generator
from tests.support.attacks.layer_updates import DT, layer_update
from tests.support.attacks.real_updates import assert_simulates

KNOWN = ThreatModel.of(
    Capability.TRAINING, Capability.BATCH_ORDER, Capability.LABELS, Capability.NOISE
)
ONE_STEP = {"batch_size": 64, "learning_rate": 0.5}
CT = {"name": "noprop-ct", "block": "small", "blocks": 3}
FM = {"name": "noprop-fm", "block": "small", "blocks": 3, "sigma": 0.1}


@pytest.mark.parametrize(
    ("model", "client"),
    [
        (DT, ONE_STEP),
        ({**DT, "norm": "batch"}, {"batch_size": 4, "epochs": 2, "learning_rate": 0.1}),
        ({**DT, "snr_weight": True}, {"batch_size": 3, "proximal_mu": 0.5, "momentum": 0.9}),
        ({**DT, "embedding": "learned"}, ONE_STEP),
        ({**DT, "embedding": "learned"}, {"batch_size": 3, "learning_rate": 0.1}),
        (CT, ONE_STEP),
        (CT, {"batch_size": 3, "learning_rate": 0.1, "gradient_clip": 0.5}),
        (FM, ONE_STEP),
        ({**FM, "embedding": "learned"}, {"batch_size": 3, "learning_rate": 0.1}),
    ],
)
def test_the_simulated_client_sends_what_the_real_one_sends(
    model: dict[str, Any], client: dict[str, Any]
) -> None:
    capture, truth = layer_update(model, client, list(range(5)))
    assert_simulates(capture, truth, KNOWN, (2e-3, 1e-5))


@pytest.mark.parametrize("model", [DT, {**DT, "norm": "batch"}, CT, FM])
def test_the_doctor_replays_it(model: dict[str, Any]) -> None:
    client = {"optimizer": "adamw", "batch_size": 3, "learning_rate": 0.01}
    capture, truth = layer_update(model, client, list(range(7)))
    found = diagnose(capture, truth)
    assert found.consistent
    assert found.cosine > 1 - 1e-6
    with pytest.raises(CaptureError, match="no seeds of the layers"):
        diagnose(capture, replace(truth, part_seeds={}))


@pytest.mark.slow
def test_other_seeds_of_the_layers_do_not_replay_it() -> None:
    # One small batch: that no normalisation explains the update either takes many replays.
    capture, truth = layer_update(DT, {"batch_size": 2, "learning_rate": 0.01}, [0, 1])
    other = {name: seed + 1 for name, seed in truth.part_seeds.items()}
    assert diagnose(capture, truth).consistent
    assert diagnose(capture, replace(truth, part_seeds=other)).cause == "unknown"


def test_the_observation_knows_the_layers_and_holds_no_others() -> None:
    capture, _ = layer_update(DT, ONE_STEP, [0], layers=(1, 3))
    model = observe(capture, ThreatModel.of(Capability.TRAINING)).model
    assert model.layers == (1, 3)
    assert [unit.name for unit in model.units] == ["block 1", "block 3", "head"]
    assert {name.rpartition(".")[0].split(".")[1] for name in model.names} == {"1", "3", "head"}


def test_what_is_not_known_of_the_noise_is_asked_for_and_changes_the_update() -> None:
    capture, truth = layer_update(FM, ONE_STEP, [0, 1], layers=(2,))
    simulation = ClientSimulation.of(observe(capture, ThreatModel.of(Capability.TRAINING)))
    # Noise, a time, and the spread around the line, of two examples.
    assert simulation.unknowns == 2 * (10 + 1 + 10)
    images, labels = truth.normalized(capture.federation), truth.labels
    with pytest.raises(AttackError, match="the client drew 42 numbers"):
        simulation(images, labels)
    unknowns = torch.randn(3, 42, requires_grad=True)
    together = simulation.stacked(images.expand(3, *images.shape), labels.expand(3, 2), unknowns)
    for tensor, one in zip(together, simulation(images, labels, unknowns[1]), strict=True):
        torch.testing.assert_close(tensor[1], one, rtol=1e-4, atol=1e-5)
    [slope] = torch.autograd.grad(sum(t.square().sum() for t in together), unknowns)
    assert bool((slope != 0).all())


@pytest.mark.parametrize("model", [DT, CT, {**DT, "embedding": "learned"}])
def test_the_heads_gradient_gives_the_labels_away(model: dict[str, Any]) -> None:
    for group in ([4], [0, 1, 2, 3, 10, 20]):
        capture, truth = layer_update(model, ONE_STEP, group)
        observation = observe(capture, ThreatModel.of(Capability.TRAINING))
        assert infer_labels(observation).tolist() == truth.labels.sort().values.tolist()


def test_without_a_head_labels_cannot_be_inferred() -> None:
    capture, _ = layer_update(FM, ONE_STEP, [0])
    with pytest.raises(AttackError, match="the network has no head"):
        infer_labels(observe(capture, ThreatModel.of(Capability.TRAINING)))


def rows(attack: Attack, victims: list[tuple[Capture, Truth]]) -> list[dict[str, Any]]:
    known = [Victim(capture, truth) for capture, truth in victims]
    references = references_of(load_dataset("digits"))
    observations = observe_victims(known, attack, public=references.public)
    done = attack_victims("it", attack, known, observations, candidates=references.candidates)
    return [row for one in done for row in one.rows]


@pytest.mark.slow
def test_what_is_done_about_the_noise_decides_how_well_updates_match() -> None:
    found = {}
    for noise in ("optimised", "drawn", "given"):
        attack = build_attack("inverting-gradients", {"steps": 60, "tv": 1e-3, "noise": noise})
        [found[noise]] = rows(attack, [layer_update(DT, ONE_STEP, [0], (0, 2))])
    assert found["optimised"]["cost"] < 0.85 * found["drawn"]["cost"]
    assert found["given"]["cost"] < 0.85 * found["drawn"]["cost"]
    assert "oracle (noise" in found["given"]["threat"]
    for row in found.values():
        assert row["layers"] == 2
        assert row["label_accuracy"] == 1.0


@pytest.mark.parametrize("name", ["dlg", "gradinversion", "ggl"])
def test_other_attacks_are_of_the_same_pieces(name: str) -> None:
    small = {"dlg": {"steps": 2}, "gradinversion": {"steps": 2}}
    with_generator = {"generator": str(digit_generator()), "rounds": 2, "population": 4}
    attack = build_attack(name, {"restarts": 2, **small.get(name, with_generator)})
    [row] = rows(attack, [layer_update(DT, ONE_STEP, [0], (1,))])
    assert row["layers"] == 1


def test_layers_that_chose_their_own_examples_are_refused() -> None:
    capture, _ = layer_update(DT, {"batch_size": 2, "steps": 1}, [0, 1, 2])
    with pytest.raises(CaptureError, match="each layer took 1 steps on 2 of 3 examples"):
        observe(capture, ThreatModel.of(Capability.TRAINING))


def test_a_client_whose_batch_norm_makes_nothing_of_one_image_is_refused() -> None:
    capture, _ = layer_update({**DT, "norm": "batch"}, ONE_STEP, [0])
    with pytest.raises(AttackError, match="'block 0' takes no step on fewer than 2"):
        ClientSimulation.of(observe(capture, ThreatModel.of(Capability.TRAINING)))


def test_the_statistics_of_layers_that_saw_noise_are_no_prior() -> None:
    capture, _ = layer_update({**DT, "norm": "batch"}, ONE_STEP, [0, 1])
    attack = build_attack("gradinversion", {"statistics": "running"})
    with pytest.raises(AttackError, match="the client's layers saw noise"):
        attack.check(observe(capture, attack.threat))
