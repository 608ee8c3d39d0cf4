"""LOKI on sums of real clients, whose kernels keep them apart, and without these."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.capture_validation.replay import diagnose
from atoll.attacks.captures.aggregate_capture import aggregate_captures, aggregate_truths
from atoll.attacks.methods.exact.loki import separated_images
from atoll.attacks.threat.observation import observe, used_examples
from atoll.attacks.victims import Attacked, Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.models.malicious.loki_block import LokiBlock, kernels_of_set
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.errors import AttackError, CaptureError
from tests.support.attacks.attacking import attacked, figures
from tests.support.attacks.real_updates import client_update, copy_of

CLIENTS, EXAMPLES = 4, 6
# The deviation of the brightness of digits is 0.09.
MODEL: dict[str, Any] = {"name": "loki", "base": "lenet-relu", "sets": CLIENTS, "spread": 0.09}
ONE_STEP = {"batch_size": EXAMPLES, "learning_rate": 1.0}


def summed(client: dict[str, Any], *, apart: bool, **model: Any) -> Victim:
    """The sum of clients that got kernels of their own, or all the first set's."""
    data = load_dataset("digits")
    settings = {**MODEL, **model}
    shape, classes = data.image_shape, len(data.classes)
    state = copy_of(build_model(ModelSettings.model_validate(settings), shape, classes, 5))
    kernels = {part: state[f"0.kernels.{part}"] for part in ("weight", "bias")}
    captures, truths = [], []
    for place in range(CLIENTS):
        moved = kernels_of_set(kernels, place if apart else 0)
        own = {**state, **{f"0.kernels.{part}": values for part, values in moved.items()}}
        group = list(range(place * EXAMPLES, (place + 1) * EXAMPLES))
        capture, truth = client_update(settings, client, group, state=own, node_id=place + 1)
        captures.append(capture)
        truths.append(used_examples(truth))
    return Victim(aggregate_captures(captures), aggregate_truths(truths))


def attacked_sum(victim: Victim, **settings: Any) -> Attacked:
    attack = build_attack("loki", settings)
    candidates = references_of(load_dataset("digits")).candidates
    observations = observe_victims([victim], attack)
    [found] = attack_victims("loki", attack, [victim], observations, candidates=candidates)
    return found


def read(found: Attacked) -> int:
    return sum(psnr > 40 for psnr in figures([found], "psnr"))


def test_images_of_all_clients_are_read_off_their_sum() -> None:
    found = attacked_sum(summed(ONE_STEP, apart=True))
    assert found.reconstruction.found is not None
    assert int(found.reconstruction.found.sum()) >= 23
    assert read(found) >= 22
    assert figures([found], "threat")[0] == "malicious server (chooses the model)"


def test_few_bins_do_for_clients_apart_and_not_for_their_mixture() -> None:
    # 24 images in 48 bins collide; 6 of each client seldom do.
    apart, mixed = (attacked_sum(summed(ONE_STEP, apart=apart, bins=48)) for apart in (True, False))
    assert read(mixed) < 0.75 * read(apart)


def test_a_set_holds_the_images_of_its_client_alone() -> None:
    victim = summed(ONE_STEP, apart=True)
    threat = build_attack("loki", {}).threat
    observation = observe(victim.capture, threat)
    images, _ = separated_images(observation, 1e-3)
    truth = observation.space.normalize(victim.truth.images).double()
    distances = torch.cdist(images.flatten(1), truth.flatten(1))
    clients = distances.argmin(1)[distances.amin(1) < 0.05] // EXAMPLES
    # Images come set by set.
    assert torch.equal(clients, clients.sort().values)
    assert clients.unique().tolist() == list(range(CLIENTS))


def test_clients_that_take_several_steps_are_kept_apart_too() -> None:
    several = {"batch_size": 2, "epochs": 1, "learning_rate": 1.0}
    victim = summed(several, apart=True)
    found = attacked_sum(victim)
    assert read(found) >= 20
    with pytest.raises(CaptureError, match="no client could have sent it; expected .*'loki'"):
        observe(victim.capture, build_attack("idlg", {}).threat)
    with pytest.raises(CaptureError, match="began with different models"):
        diagnose(victim.capture, victim.truth)


def used_again(scale: float) -> float:
    """The share of images that fall into a bin, used in a step, after that step too."""
    data = load_dataset("digits")
    settings = ModelSettings.model_validate({**MODEL, "sets": 1, "scale": scale})
    module = build_model(settings, data.image_shape, len(data.classes), 5)
    block = next(m for m in module.modules() if isinstance(m, LokiBlock))
    images = data.inputs.to_tensor(np.array(data.train.images[:64]))

    def active() -> torch.Tensor:
        units = block.encoder(torch.relu(block.kernels(images)).flatten(1))
        return (units > 0) & (units < 1)

    before = active()
    labels = torch.from_numpy(np.array(data.train.labels[:64]))
    torch.nn.functional.cross_entropy(module(images), labels).backward()
    with torch.no_grad():
        for parameter in block.encoder.parameters():
            assert parameter.grad is not None
            parameter -= parameter.grad
    after, used = active(), before.any(0)
    # A bin that no image was in stays as it was.
    assert torch.equal(after[:, ~used], before[:, ~used])
    return float(after[:, used].sum() / before.sum())


def test_the_factor_keeps_images_of_later_steps_out_of_a_bin_that_was_used() -> None:
    assert used_again(500.0) < 0.15
    assert used_again(1.0) > 0.85


def test_a_single_client_is_attacked_as_it_is_and_other_models_are_refused() -> None:
    [found] = attacked("loki", {**MODEL, "sets": 1}, [list(range(8))])
    assert sum(psnr > 60 for psnr in figures([found], "psnr")) >= 7
    with pytest.raises(AttackError, match="no kernels that keep clients apart; .*'loki'"):
        attacked("loki", {"name": "lenet"}, [[0]])
