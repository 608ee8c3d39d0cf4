"""Attacks that solve for images: they must be exact on what they are for, and refuse the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from atoll.attacks.threat.capabilities import ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.malicious.imprint_block import ImprintBlock, aim
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.errors import AttackError
from tests.support.attacks.attacking import attacked, figures
from tests.support.attacks.real_updates import client_update, copy_of

ONES = [[index] for index in range(5)]


def test_a_linear_layer_gives_its_input_away() -> None:
    assert min(figures(attacked("linear-layer", {"name": "mlp"}, ONES), "psnr")) > 100


def test_a_linear_layer_gives_it_away_after_several_steps_too() -> None:
    steps = {"batch_size": 1, "steps": 4, "momentum": 0.9, "learning_rate": 0.5}
    assert min(figures(attacked("linear-layer", {"name": "mlp"}, ONES, steps), "psnr")) > 100


def test_of_a_batch_a_linear_layer_gives_mixtures() -> None:
    found = figures(attacked("linear-layer", {"name": "linear"}, [[0, 1, 2, 3]]), "psnr")
    assert max(found) < 40


def test_r_gap_solves_convolutions_layer_by_layer() -> None:
    found = attacked("r-gap", {"name": "cnn-leaky"}, ONES)
    assert min(figures(found, "psnr")) > 100
    assert set(figures(found, "label_accuracy")) == {1.0}


@pytest.mark.parametrize("name", ["with_sigmoids", "with_tanh_and_biases"])
def test_r_gap_solves_other_activations_and_biases(name: str) -> None:
    found = attacked("r-gap", {"name": f"tests.support.attacks.black_box_models:{name}"}, ONES[:2])
    assert min(figures(found, "psnr")) > 60


IMPRINT = {"name": "imprint", "bins": 256, "base": "mlp"}
EIGHT = list(range(8))


def aimed_state() -> dict[str, torch.Tensor]:
    """The server's model, its thresholds set by images that no client has."""
    data = load_dataset("digits")
    module = build_model(
        ModelSettings.model_validate(IMPRINT), data.image_shape, len(data.classes), 5
    )
    block = next(m for m in module.modules() if isinstance(m, ImprintBlock))
    aim(block, to_tensor(np.array(data.train.images), data.mean, data.std))
    return copy_of(module)


def test_an_imprint_block_gives_away_a_whole_batch() -> None:
    [found] = attacked("imprint", IMPRINT, [EIGHT], state=aimed_state())
    assert found.reconstruction.found is not None
    assert int(found.reconstruction.found.sum()) == 8
    assert sum(psnr > 30 for psnr in figures([found], "psnr")) == 8


def test_an_imprint_block_whose_outgoing_weights_differ_does_not() -> None:
    state = aimed_state()
    generator = torch.Generator().manual_seed(0)
    state["0.decoder.weight"] = 1e-3 * torch.randn(
        state["0.decoder.weight"].shape, generator=generator
    )
    [found] = attacked("imprint", IMPRINT, [EIGHT], state=state)
    assert sum(psnr > 30 for psnr in figures([found], "psnr")) <= 3


def test_two_images_in_one_bin_are_not_said_to_be_found() -> None:
    one_bin = {"name": "imprint", "bins": 2, "spread": 100.0, "base": "mlp"}
    [found] = attacked("imprint", one_bin, [EIGHT])
    assert found.reconstruction.found is not None
    assert int(found.reconstruction.found.sum()) <= 1
    assert sum(psnr > 30 for psnr in figures([found], "psnr")) == 0


def test_imprints_thresholds_are_quantiles() -> None:
    for distribution, sampled in (
        ("normal", torch.distributions.Normal(0.5, 2.0)),
        ("laplace", torch.distributions.Laplace(0.5, 2.0 / 2**0.5)),
    ):
        arguments = {"bins": 4, "center": 0.5, "spread": 2.0, "distribution": distribution}
        settings = ModelSettings.model_validate({"name": "imprint", "base": "mlp", **arguments})
        block = next(
            m
            for m in build_model(settings, (1, 8, 8), 10, 0).modules()
            if isinstance(m, ImprintBlock)
        )
        shares = torch.tensor([0.125, 0.375, 0.625, 0.875])
        torch.testing.assert_close(-block.encoder.bias.detach(), sampled.icdf(shares))


@pytest.mark.parametrize(
    ("name", "model", "group", "text"),
    [
        ("linear-layer", "lenet-sigmoid", [0], "first layer is Conv2d .*expected a linear layer"),
        ("imprint", "mlp", [0], "no imprint block; expected .*model.name = 'imprint'"),
        ("r-gap", "cnn-leaky", [0, 1], "solves for one image, the client trained on 2"),
        ("r-gap", "lenet", [0], "cannot solve the (model|layers)"),
        ("r-gap", "resnet8", [0], "cannot solve"),
        ("idlg", "tests.support.attacks.black_box_models:no_linear_head", [0], "head"),
    ],
)
def test_a_model_that_an_attack_is_not_for_is_refused(
    name: str, model: str, group: list[int], text: str
) -> None:
    with pytest.raises(AttackError, match=text):
        attacked(name, {"name": model}, [group])


def test_an_attack_is_only_run_on_what_it_declares() -> None:
    from atoll.attacks.base.attack_building import build_attack

    capture, _ = client_update({"name": "mlp"}, {}, [0])
    attack: Any = build_attack("idlg", {})
    with pytest.raises(AttackError, match="declares informed eavesdropper"):
        attack.run_checked([observe(capture, ThreatModel())])
