"""The doctor on healthy captures and on each mistake that it knows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from atoll.attacks.capture_validation.replay import diagnose, diagnose_capture
from atoll.attacks.captures.capture import Capture, Content, Truth
from atoll.attacks.captures.capture_files import write_capture
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.training import local_training as training
from atoll.errors import CaptureError
from tests.support.attacks.real_updates import client_update

pytestmark = pytest.mark.slow

BATCH_NORM = {"name": "resnet8", "norm": "batch"}
SETTINGS = {"batch_size": 3, "epochs": 2, "learning_rate": 0.1}


def _frozen(module: nn.Module) -> nn.Module:
    """A client that trains with BatchNorm's running statistics."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train = lambda mode=True, layer=layer: layer  # type: ignore[method-assign]
            layer.training = False
    return module


@pytest.mark.parametrize(
    "model", [{"name": "mlp"}, BATCH_NORM, {"name": "resnet8"}, {"name": "cnn-pfl"}]
)
def test_a_real_update_is_consistent(model: dict[str, Any], tmp_path: Path) -> None:
    capture, truth = client_update(model, SETTINGS, list(range(7)))
    write_capture(capture, truth, tmp_path / "capture")
    found = diagnose_capture(tmp_path / "capture")
    assert found.consistent
    assert found.cause is None
    assert found.cosine > 1 - 1e-6


def test_batch_norm_in_another_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.attacks import real_updates

    build = real_updates.build_model
    monkeypatch.setattr(real_updates, "build_model", lambda *given: _frozen(build(*given)))
    capture, truth = client_update(BATCH_NORM, SETTINGS, list(range(7)))
    found = diagnose(capture, truth)
    assert (found.consistent, found.cause) == (False, "batch-norm mode")


def test_a_sum_of_losses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="sum")

    with monkeypatch.context() as patched:
        patched.setattr(training, "mean_loss", summed)
        capture, truth = client_update({"name": "mlp"}, SETTINGS, list(range(7)))
    found = diagnose(capture, truth)
    assert (found.consistent, found.cause) == (False, "loss reduction")


def test_two_mistakes_at_once_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.attacks import real_updates

    def summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="sum")

    build = real_updates.build_model
    with monkeypatch.context() as patched:
        patched.setattr(training, "mean_loss", summed)
        patched.setattr(real_updates, "build_model", lambda *given: _frozen(build(*given)))
        capture, truth = client_update(BATCH_NORM, SETTINGS, list(range(7)))
    assert diagnose(capture, truth).cause == "batch-norm mode and loss reduction"
    with monkeypatch.context() as patched:
        patched.setattr(training, "mean_loss", summed)
        capture, truth = client_update({"name": "mlp"}, SETTINGS, list(range(7)))
    inputs = ImageInputs(image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))
    stated = replace(capture.federation, inputs=inputs)
    found = diagnose(replace(capture, federation=stated), truth)
    assert found.cause == "loss reduction and normalisation"
    assert "divide its learning rate" in found.advice
    assert "normalised by mean" in found.advice


def test_images_that_were_not_normalised_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.attacks import real_updates

    with monkeypatch.context() as patched:
        patched.setattr(
            real_updates,
            "to_tensor",
            lambda pixels, mean, std: torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
        )
        capture, truth = client_update({"name": "mlp"}, SETTINGS, list(range(7)))
    found = diagnose(capture, truth)
    assert (found.consistent, found.cause) == (False, "normalisation")


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.485, 0.229), (0.0, 1 / 255)])
@pytest.mark.slow
def test_another_normalisation_at_the_client_is_found(
    mean: float, std: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.attacks import real_updates

    def normalized(pixels: Any, *stated: Any) -> torch.Tensor:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return (images - mean) / std

    with monkeypatch.context() as patched:
        patched.setattr(real_updates, "to_tensor", normalized)
        capture, truth = client_update({"name": "lenet-sigmoid"}, SETTINGS, list(range(7)))
    found = diagnose(capture, truth)
    assert (found.consistent, found.cause) == (False, "normalisation")
    said = re.search(r"by mean (\S+) and std (\S+?):", found.advice)
    assert said is not None
    assert [float(number) for number in said.groups()] == pytest.approx([mean, std], abs=5e-3)


@pytest.mark.parametrize("model", [{"name": "lenet"}, BATCH_NORM])
def test_a_normalisation_that_is_not_the_data_sets_is_named(model: dict[str, Any]) -> None:
    capture, truth = client_update(model, SETTINGS, list(range(7)))
    inputs = ImageInputs(image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))
    stated = replace(capture.federation, inputs=inputs)
    found = diagnose(replace(capture, federation=stated), truth)
    assert (found.consistent, found.cause) == (False, "normalisation")


def test_buffers_that_training_does_not_use_are_missed_too() -> None:
    capture, truth = client_update(BATCH_NORM, SETTINGS, list(range(7)))
    kept = {k: v for k, v in capture.broadcast.items() if "running" not in k}
    found = diagnose(replace(capture, sent=Content({"arrays": kept}, capture.sent.values)), truth)
    assert found.consistent
    assert "the broadcast lacks 1.running_mean" in found.advice


@pytest.mark.slow
def test_missing_buffers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.attacks import real_updates

    build = real_updates.build_model

    def trained_elsewhere(*given: Any) -> nn.Module:
        module = _frozen(build(*given))
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean += 0.3
        return module

    monkeypatch.setattr(real_updates, "build_model", trained_elsewhere)
    capture, truth = client_update(BATCH_NORM, SETTINGS, list(range(7)))
    kept = {k: v for k, v in capture.broadcast.items() if "running" not in k}
    found = diagnose(replace(capture, sent=Content({"arrays": kept}, capture.sent.values)), truth)
    assert (found.consistent, found.cause) == (False, "missing buffers")
    assert "running_mean" in found.advice


def _noised(capture: Capture, **client: Any) -> Capture:
    noised = {k: v + 0.1 * torch.randn_like(v) for k, v in capture.update.items()}
    settings = capture.federation.client.model_copy(update=client)
    return replace(
        capture,
        federation=replace(capture.federation, client=settings),
        reply=Content({"arrays": noised}, capture.reply.values),
    )


def test_a_defense_is_named_and_what_is_not_known_is_said_to_be_unknown() -> None:
    capture, truth = client_update({"name": "mlp"}, SETTINGS, list(range(7)))
    found = diagnose(_noised(capture, mods=("arrays_size_mod",)), truth)
    assert (found.consistent, found.cause) == (False, "defense")
    assert diagnose(_noised(capture), truth).cause == "unknown"


def _with_reply(capture: Capture, **changed: torch.Tensor) -> Capture:
    arrays = {**capture.update, **changed}
    return replace(capture, reply=Content({"arrays": arrays}, capture.reply.values))


def test_replies_of_another_shape_or_without_numbers_are_refused() -> None:
    capture, truth = client_update({"name": "mlp"}, SETTINGS, list(range(7)))
    name, value = next(iter(capture.update.items()))
    with pytest.raises(CaptureError, match=r"the reply's .* has shape \(3,\), expected \("):
        diagnose(_with_reply(capture, **{name: torch.zeros(3)}), truth)
    with pytest.raises(CaptureError, match="has values that are not finite"):
        diagnose(_with_reply(capture, **{name: value * torch.nan}), truth)


def test_bad_captures_are_refused() -> None:
    capture, truth = client_update({"name": "mlp"}, SETTINGS, list(range(7)))
    with pytest.raises(CaptureError, match="has the label 12; expected 0 to 9, of 10 classes"):
        diagnose(capture, replace(truth, labels=truth.labels + 12 - int(truth.labels[0])))
    fewer = Truth(truth.pixels[:3], truth.labels[:3], truth.batches, 1, truth.indices[:3])
    with pytest.raises(CaptureError, match="the truth has 3 examples, the client said 7"):
        diagnose(capture, fewer)
    with pytest.raises(CaptureError, match="expected a training message"):
        diagnose(replace(capture, message_type="query.moments"), truth)
