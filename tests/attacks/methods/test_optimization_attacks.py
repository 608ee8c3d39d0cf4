"""Attacks by optimisation, on real clients' updates."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.threat.capabilities import Capability
from atoll.errors import AttackError, UnknownNameError
from tests.support.attacks.attacking import attacked, figures

pytestmark = pytest.mark.slow

SIGMOID = {"name": "lenet-sigmoid"}
FLOOR = 12.0


@pytest.mark.slow
def test_idlg_restores_images_of_the_sigmoid_lenet() -> None:
    found = attacked("idlg", SIGMOID, [[1], [2], [3], [4]], steps=150)
    assert sum(psnr > 40 for psnr in figures(found, "psnr")) >= 3
    assert set(figures(found, "label_accuracy")) == {1.0}
    assert set(figures(found, "label_source")) == {"inferred"}


@pytest.mark.slow
def test_dlg_finds_the_labels_with_the_images() -> None:
    found = attacked("dlg", SIGMOID, [[1], [2]], steps=150, restarts=2)
    assert min(figures(found, "psnr")) > 40
    assert set(figures(found, "label_accuracy")) == {1.0}
    assert set(figures(found, "label_source")) == {"optimised"}


@pytest.mark.slow
def test_inverting_gradients_beats_its_floors() -> None:
    settings = {"steps": 200, "tv": 1e-3}
    found = attacked("inverting-gradients", {"name": "lenet-relu"}, [[0], [1], [2]], **settings)
    floor = attacked("class-mean", {"name": "lenet-relu"}, [[0], [1], [2]])
    assert fmean(figures(found, "psnr")) > fmean(figures(floor, "psnr")) + 3


@pytest.mark.slow
def test_inverting_gradients_unrolls_several_steps_and_epochs() -> None:
    client = {"batch_size": 2, "epochs": 3, "learning_rate": 0.05}
    settings = {"steps": 120, "tv": 1e-3, "schedule": "cosine"}
    found = attacked("inverting-gradients", SIGMOID, [[0, 1]], client, **settings)
    assert min(figures(found, "psnr")) > FLOOR


def test_gradinversion_uses_each_of_its_priors() -> None:
    model = {"name": "tests.support.attacks.black_box_models:with_batch_norm"}
    base = {"steps": 5, "restarts": 2}
    [plain] = attacked("gradinversion", model, [[0, 1]], **base)
    changes: list[dict[str, Any]] = [
        {"tv": 1.0},
        {"l2": 1.0},
        {"group": 10.0},
        {"langevin": 0.5},
        {"statistics": "none"},
        {"statistics": "batch"},
    ]
    for change in changes:
        [other] = attacked("gradinversion", model, [[0, 1]], **{**base, **change})
        assert not torch.equal(plain.images, other.images), change


@pytest.mark.slow
def test_rog_optimises_a_small_image_and_sharpens_it_with_public_ones() -> None:
    settings = {"factor": 2, "steps": 150, "learning_rate": 0.1}
    plain = attacked("rog", SIGMOID, [[0], [1]], enhancement="none", **settings)
    better = attacked("rog", SIGMOID, [[0], [1]], enhancement_steps=60, **settings)
    floor = attacked("random-image", SIGMOID, [[0], [1]])
    assert fmean(figures(plain, "psnr")) > fmean(figures(floor, "psnr")) + 3
    assert fmean(figures(better, "psnr")) > fmean(figures(plain, "psnr"))
    assert "public data" in figures(better, "threat")[0]
    assert "public data" not in figures(plain, "threat")[0]
    with pytest.raises(AttackError, match="factor = 3: images of 8x8 pixels cannot be reduced"):
        attacked("rog", SIGMOID, [[0]], factor=3)


def test_one_seed_gives_one_result_and_victims_do_not_depend_on_company() -> None:
    settings = {"steps": 20, "restarts": 2}
    together = attacked("idlg", SIGMOID, [[0], [1], [2]], **settings)
    again = attacked("idlg", SIGMOID, [[0], [1], [2]], **settings)
    other = attacked("idlg", SIGMOID, [[0], [1], [2]], seed=1, **settings)
    for one, two, three in zip(together, again, other, strict=True):
        assert torch.equal(one.images, two.images)
        assert not torch.equal(one.images, three.images)
    few = {"steps": 3, "restarts": 2}
    [alone] = attacked("idlg", SIGMOID, [[0]], **few)
    beside = attacked("idlg", SIGMOID, [[0], [1], [2]], **few)[0]
    torch.testing.assert_close(alone.images, beside.images, rtol=0, atol=1e-3)


def test_the_restart_that_is_returned_is_the_one_of_least_cost() -> None:
    settings = {"steps": 60}
    [three] = attacked("idlg", SIGMOID, [[0]], restarts=3, **settings)
    [one] = attacked("idlg", SIGMOID, [[0]], restarts=1, **settings)
    assert three.reconstruction.cost <= one.reconstruction.cost * 1.01
    assert three.reconstruction.cost == pytest.approx(
        float(three.reconstruction.cost_path.min()), rel=1e-5
    )


def test_given_labels_are_an_oracle_and_say_so() -> None:
    found = attacked("inverting-gradients", SIGMOID, [[0, 1]], steps=2, labels="given")
    assert set(figures(found, "label_source")) == {"given"}
    assert "with oracle" in figures(found, "threat")[0]
    assert set(figures(found, "label_accuracy")) == {1.0}


def test_an_attack_of_the_users_own_is_named_by_its_class() -> None:
    [found] = attacked("tests.support.attacks.black_box_attack:Mine", SIGMOID, [[1]], steps=60)
    assert found.rows[0]["psnr"] > FLOOR
    with pytest.raises(AttackError, match="is not an attack; expected a subclass of Attack"):
        build_attack("tests.support.attacks.black_box_models:no_bias", {})


def test_settings_of_an_attack_are_checked() -> None:
    with pytest.raises(AttackError, match="steps = 0: expected greater than 0"):
        build_attack("idlg", {"steps": 0})
    with pytest.raises(AttackError, match="stepps = 5: no such .*did you mean 'steps'"):
        build_attack("idlg", {"stepps": 5})
    with pytest.raises(UnknownNameError, match="no such attack; did you mean 'idlg'"):
        build_attack("idgl", {})
    adaptive = build_attack("idlg", {"defense": "adaptive", "batch_order": "given"})
    assert {Capability.DEFENSE, Capability.BATCH_ORDER} <= adaptive.threat.capabilities


@pytest.mark.parametrize(
    "settings", [{"matched": 0.2}, {"regularization": 0.5}, {"adam_epsilon": 1e-8}]
)
def test_options_of_the_matching_change_the_result(settings: dict[str, Any]) -> None:
    client = {"batch_size": 1, "learning_rate": 1e-3, "optimizer": "adam"}
    few = {"steps": 30, "tv": 1e-3}
    plain = figures(attacked("inverting-gradients", {"name": "mlp"}, [[0]], client, **few), "psnr")
    again = {"matched": 1.0, "regularization": 0.0, "adam_epsilon": 1e-3}
    same = attacked("inverting-gradients", {"name": "mlp"}, [[0]], client, **few, **again)
    assert figures(same, "psnr") == plain
    other = attacked("inverting-gradients", {"name": "mlp"}, [[0]], client, **few, **settings)
    assert figures(other, "psnr") != plain


def test_a_rounded_epsilon_reconstructs_from_a_step_of_adam() -> None:
    client = {"batch_size": 1, "learning_rate": 1e-3, "optimizer": "adam"}
    settings = {"steps": 150, "tv": 1e-3}
    ones = [[0], [1]]
    [low, high] = [
        min(
            figures(attacked("inverting-gradients", {"name": "mlp"}, ones, client, **given), "psnr")
        )
        for given in ({**settings, "adam_epsilon": 1e-8}, settings)
    ]
    assert low < 12 < 14 < high
