"""Observations hold what a threat model grants, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.capture import Capture, Content
from atoll.attacks.threat.capabilities import Capability, Given, ThreatModel
from atoll.attacks.threat.observation import (
    ImageSpace,
    Observation,
    PublicData,
    observe,
    used_examples,
)
from atoll.errors import AttackError, CaptureError
from tests.support.attacks.real_updates import client_update

MODEL = {"name": "resnet8", "norm": "batch"}
FIELD = {
    Capability.TRAINING: "training",
    Capability.LABELS: "labels",
    Capability.BUFFERS: "buffers",
    Capability.BATCH_ORDER: "batches",
    Capability.DEFENSE: "mimic",
    Capability.PUBLIC_DATA: "public",
}


@pytest.mark.parametrize("capability", FIELD)
def test_it_holds_what_is_granted_and_nothing_else(capability: Capability) -> None:
    capture, truth = client_update(MODEL, {"batch_size": 4}, [0, 1])
    public = PublicData(torch.zeros(1, 1, 8, 8), torch.zeros(1).long())
    observation = observe(
        capture, ThreatModel.of(capability), truth=truth, mimic=lambda u: u, public=public
    )
    held = {name for name in FIELD.values() if getattr(observation, name) is not None}
    assert held == {FIELD[capability]}


GIVEN = {
    Given.MODEL: {"model", "sent_buffers"},
    Given.UPDATE: {"target"},
    Given.COUNT: {"num_examples"},
    Given.TASK: {"task"},
    Given.NORMALISATION: {"inputs"},
    # A property of the model that is given.
    Given.BATCH_NORM: set(),
}


def test_every_field_is_declared_as_given_or_granted() -> None:
    assert set(GIVEN) == set(ThreatModel().given)
    declared = set().union(*GIVEN.values()) | set(FIELD.values()) | {"noise"}
    names = {"server_round", "node_id", "threat"}
    assert {field.name for field in fields(Observation)} == declared | names
    capture, _ = client_update(MODEL, {"batch_size": 4}, [0, 1])
    observation = observe(capture, ThreatModel(), mode="train")
    assert all(getattr(observation, name) is not None for name in set().union(*GIVEN.values()))
    assert observation.model.mode == "train"


def test_the_target_of_one_step_is_the_gradient() -> None:
    capture, truth = client_update({"name": "mlp"}, {"batch_size": 4, "learning_rate": 0.3}, [3, 4])
    observation = observe(capture, ThreatModel.of(Capability.TRAINING))
    module = observation.model.module.requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(
        module(observation.space.normalize(truth.images)), truth.labels
    )
    for found, wanted in zip(
        observation.target, torch.autograd.grad(loss, list(module.parameters())), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    unscaled = observe(capture, ThreatModel())
    for found, scaled in zip(unscaled.target, observation.target, strict=True):
        torch.testing.assert_close(found, 0.3 * scaled)


def test_only_the_examples_of_the_steps_count() -> None:
    capture, truth = client_update({"name": "mlp"}, {"batch_size": 3, "steps": 1}, list(range(9)))
    used = used_examples(truth)
    assert observe(capture, ThreatModel()).num_images == len(used.labels) == 3
    [batch] = truth.batches
    assert sorted(used.indices.tolist()) == sorted(truth.indices[batch].tolist())
    assert torch.equal(used.indices[used.batches[0]], truth.indices[batch])


def test_what_is_granted_but_not_there_is_an_error() -> None:
    capture, truth = client_update(MODEL, {"batch_size": 4}, [0, 1])
    with pytest.raises(AttackError, match="grants 'labels', and there is none"):
        observe(capture, ThreatModel.of(Capability.LABELS))
    trained = {k: v for k, v in capture.update.items() if "running" not in k and "num_b" not in k}
    without = replace(capture, reply=Content({"arrays": trained}, capture.reply.values))
    with pytest.raises(CaptureError, match="holds no buffers; expected BatchNorm's statistics"):
        observe(without, ThreatModel.of(Capability.BUFFERS), truth=truth)


def test_running_statistics_that_are_used_must_be_there() -> None:
    capture, _ = client_update(MODEL, {"batch_size": 4}, [0, 1])
    kept = {k: v for k, v in capture.broadcast.items() if "running" not in k}
    without = replace(capture, sent=Content({"arrays": kept}, capture.sent.values))
    assert observe(without, ThreatModel.of()).model.batch_norms
    with pytest.raises(CaptureError, match="lacks '1.running_mean'; expected BatchNorm's stat"):
        observe(without, ThreatModel.of(), mode="eval")
    attack = build_attack("gradinversion", {})
    with pytest.raises(AttackError, match="there are no running statistics of '1'"):
        attack.check(observe(without, attack.threat))


def _without(capture: Capture, name: str) -> Capture:
    kept = {key: value for key, value in capture.update.items() if key != name}
    return replace(capture, reply=Content({"arrays": kept}, capture.reply.values))


def test_a_capture_without_the_arrays_it_needs_is_refused() -> None:
    capture, _ = client_update({"name": "linear"}, {}, [0])
    with pytest.raises(CaptureError, match=r"the reply lacks the arrays \['1\.bias'\]"):
        observe(_without(capture, "1.bias"), ThreatModel())
    with pytest.raises(
        CaptureError, match=r"the sent holds no model .*expected one named 'arrays'"
    ):
        observe(replace(capture, sent=Content()), ThreatModel())
    smaller = {**capture.update, "1.weight": torch.zeros(10, 3)}
    changed = replace(capture, reply=Content({"arrays": smaller}, capture.reply.values))
    with pytest.raises(CaptureError, match=r"'1\.weight' has shape \(10, 3\), expected \(10, 64\)"):
        observe(changed, ThreatModel())
    infinite = {**capture.update, "1.weight": capture.update["1.weight"] / 0}
    changed = replace(capture, reply=Content({"arrays": infinite}, capture.reply.values))
    with pytest.raises(CaptureError, match=r"'1\.weight' has values that are not finite"):
        observe(changed, ThreatModel())


def test_normalising_is_undone_and_the_box_is_that_of_images() -> None:
    space = ImageSpace((3, 4, 4), (0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    images = torch.rand(2, 5, 3, 4, 4)
    torch.testing.assert_close(space.denormalize(space.normalize(images)), images)
    clipped = space.denormalize(space.clip(space.normalize(4 * images - 2)))
    torch.testing.assert_close(clipped, (4 * images - 2).clamp(0, 1))


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ((), "eavesdropper"),
        ((Capability.TRAINING,), "informed eavesdropper"),
        ((Capability.GENERATOR, Capability.TRAINING), "data-enhanced eavesdropper"),
        ((Capability.CHOOSES_MODEL,), "malicious server"),
        ((Capability.LABELS,), "eavesdropper with oracle"),
    ],
)
def test_threat_models_have_a_class(capabilities: tuple[Capability, ...], name: str) -> None:
    assert ThreatModel.of(*capabilities).name == name
