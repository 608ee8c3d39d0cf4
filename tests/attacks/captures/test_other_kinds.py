"""Captures of rows and sequences: files, truths, replay, and refusals of other kinds' attacks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atoll.attacks.arena.applicability import check_fits
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.base.attack_names import ATTACKS, ON_KINDS
from atoll.attacks.capture_validation.replay import diagnose
from atoll.attacks.captures.capture_files import read_capture, read_truth, write_capture
from atoll.attacks.captures.truth_checks import check_truth
from atoll.attacks.example_victims import example_victim
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.victims import observe_victims, references_of
from atoll.clients.data.inputs.kinds import AnyInputs
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.tasks.next_token import NextToken
from atoll.clients.tasks.regression import Regression
from atoll.errors import AttackError, CaptureError
from tests.support.attacks.other_kinds import (
    CLASSES,
    LENGTH,
    TABLE,
    TOKENS,
    VOCABULARY,
    dataset_of,
    victim_of,
)

TRANSFORMER = {"width": 16, "layers": 2, "heads": 2}
NEXT = NextToken(vocabulary=VOCABULARY, length=LENGTH)
KINDS: list[tuple[AnyInputs, AnyTask, dict[str, Any]]] = [
    (TABLE, CLASSES, {"name": "table-mlp", "hidden": [8]}),
    (TABLE, Regression(), {"name": "ft-transformer", "width": 8, "heads": 2}),
    (TOKENS, CLASSES, {"name": "text-transformer", **TRANSFORMER}),
    (TOKENS, NEXT, {"name": "char-transformer", **TRANSFORMER}),
]


@pytest.mark.parametrize(("inputs", "task", "model"), KINDS)
def test_a_capture_is_written_read_and_consistent(
    inputs: AnyInputs, task: AnyTask, model: dict[str, Any], tmp_path: Path
) -> None:
    dataset = dataset_of(tmp_path / "data", inputs, task)
    victim = victim_of(dataset, model, examples=5, batch_size=2, epochs=2)
    write_capture(victim.capture, victim.truth, tmp_path / "capture")
    capture, truth = read_capture(tmp_path / "capture"), read_truth(tmp_path / "capture")
    assert (capture.federation.inputs, capture.federation.task) == (inputs, task)
    np.testing.assert_array_equal(truth.inputs.numpy(), victim.truth.inputs.numpy())
    np.testing.assert_array_equal(truth.labels.numpy(), victim.truth.labels.numpy())
    check_truth(truth, capture)
    assert diagnose(capture, truth).consistent
    wrong = replace(truth, labels=truth.labels.roll(1, 0))
    assert diagnose(capture, wrong).cause == "unknown"


@pytest.mark.parametrize(("inputs", "task", "model"), KINDS)
def test_a_simulated_client_sends_the_captured_update(
    inputs: AnyInputs, task: AnyTask, model: dict[str, Any], tmp_path: Path
) -> None:
    dataset = dataset_of(tmp_path, inputs, task)
    victim = victim_of(dataset, model, examples=4, batch_size=2, momentum=0.5, epochs=2)
    threat = ThreatModel.of(Capability.TRAINING, Capability.LABELS, Capability.BATCH_ORDER)
    observation = observe(victim.capture, threat, truth=victim.truth)
    given = victim.truth.normalized(victim.capture.federation)
    assert observation.labels is not None
    update = ClientSimulation.of(observation)(given, observation.labels)
    for found, wanted in zip(update, observation.target, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-5)


def test_captures_as_they_were_written_when_all_were_images_are_read(tmp_path: Path) -> None:
    victim = example_victim(examples=3)
    place = tmp_path / "old"
    write_capture(victim.capture, victim.truth, place)
    (place / "manifest.json").unlink()
    about = json.loads((place / "capture.json").read_text())
    inputs, task = about["federation"].pop("inputs"), about["federation"].pop("task")
    about["federation"] |= {
        "image_shape": inputs["image_shape"],
        "mean": inputs["mean"],
        "std": inputs["std"],
        "classes": task["classes"],
    }
    (place / "capture.json").write_text(json.dumps({**about, "format": 1}))
    from safetensors.torch import load_file, save_file

    tensors = load_file(place / "truth.safetensors")
    tensors["pixels"] = tensors.pop("inputs")
    save_file(tensors, place / "truth.safetensors")
    truth_about = json.loads((place / "truth.json").read_text())
    (place / "truth.json").write_text(json.dumps({**truth_about, "format": 1}))
    assert read_capture(place).federation == victim.capture.federation
    assert torch.equal(read_truth(place).pixels, victim.truth.pixels)


def _cell(place: int, value: float) -> Any:
    def change(inputs: torch.Tensor) -> torch.Tensor:
        changed = inputs.clone()
        changed[0, place] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("kind", "part", "change", "message"),
    [
        (0, "inputs", _cell(1, 4), r"has 'pain' = 4; expected 0 to 3, of 4 categories"),
        (0, "inputs", _cell(3, 0.5), r"has 'sex' = -1; expected 0 to 1"),
        (0, "inputs", lambda v: v[:, :3], r"inputs are torch.float64 of shape \(3, 3\); expected"),
        (0, "labels", lambda v: v + 2, r"has the label \d; expected 0 to 1, of 2 classes"),
        (1, "labels", lambda v: v * torch.inf, "has labels that are not finite"),
        (2, "inputs", _cell(0, 30), r"has the token 30; expected 0 to 29, of 30 tokens"),
        (3, "labels", _cell(0, -7), r"has the target -7; expected 0 to 29, of 30 tokens"),
        (3, "labels", lambda v: v[:, 0], r"labels are torch.int64 of shape \(3,\); expected"),
    ],
)
def test_truths_that_are_none_are_refused(
    kind: int, part: str, change: Any, message: str, tmp_path: Path
) -> None:
    inputs, task, model = KINDS[kind]
    victim = victim_of(dataset_of(tmp_path, inputs, task), model, examples=3)
    truth = victim.truth
    wrong = replace(truth, **{part: change(getattr(truth, part))})
    with pytest.raises(CaptureError, match=message):
        check_truth(wrong, victim.capture)


def test_attacks_say_of_which_kinds_they_are() -> None:
    found: dict[str, set[str]] = {}
    for name in ATTACKS:
        for kind in ATTACKS.find(name, "attack").kinds:
            found.setdefault(kind, set()).add(name)
    assert {kind: set(names) for kind, names in ON_KINDS.items()} == {
        kind: names for kind, names in found.items() if kind != "images"
    }


def test_attacks_on_another_kind_are_refused_in_one_line(tmp_path: Path) -> None:
    table = victim_of(dataset_of(tmp_path / "a", TABLE, CLASSES), KINDS[0][2])
    said = (
        r"^IDLG reconstructs images, and the clients' examples are rows of 2 numbers and 2 "
        r"categories; expected an attack on table: tableak, spear, marginal-sample, marginal-mode$"
    )
    attack = build_attack("idlg", {})
    with pytest.raises(AttackError, match=said):
        observe_victims([table], attack)
    with pytest.raises(AttackError, match=said):
        check_fits(attack, table.capture.federation, 1)
    with pytest.raises(AttackError, match="TabLeak reconstructs table, .* images of 1x8x8"):
        observe_victims([example_victim()], build_attack("tableak", {}))


@pytest.mark.parametrize("name", ["marginal-mode", "marginal-sample"])
def test_floors_are_of_public_columns(name: str, tmp_path: Path) -> None:
    for number, (inputs, task, model) in enumerate(KINDS):
        dataset = dataset_of(tmp_path / str(number), inputs, task)
        victim, attack = victim_of(dataset, model, examples=4), build_attack(name, {})
        public = references_of(dataset).public
        check_fits(attack, victim.capture.federation, 4)
        observations = observe_victims([victim], attack, public=public)
        [found] = attack.run_checked(observations, seed=1)
        assert found.examples.shape == (4, *inputs.stored_shape)
        for place, column in enumerate(found.examples.T):
            values = dataset.test.inputs[::2, place]
            assert np.isin(column.numpy(), values).all() or np.isnan(column.numpy()).any()
            if name == "marginal-mode" and number == 0 and place == 1:
                counts = np.bincount(values.astype(int))
                assert int(column[0]) == int(counts.argmax())
