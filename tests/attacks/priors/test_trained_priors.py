"""Trained priors: what they have learned, their files, and inversion with them."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from atoll.attacks import example_victim, observe
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.priors.diffusion import Diffusion
from atoll.attacks.priors.prior_files import read_about, read_prior
from atoll.attacks.priors.prior_training import PriorSettings, train_prior
from atoll.attacks.priors.proximal_training import ProximalSettings
from atoll.attacks.priors.score_network import ScoreNetwork
from atoll.attacks.priors.score_training import ScoreSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import AttackError, DataUnavailableError
from tests.support.attacks.attacking import attacked, figures

pytestmark = pytest.mark.slow

RELU = {"name": "lenet-relu"}
SETTINGS: dict[str, PriorSettings] = {
    "lpn": ProximalSettings(steps=150, width=8, layers=2, noise=0.2),
    "diffusion": ScoreSettings(steps=120, width=8),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train both kinds on digits' training split, once: victims are of the test split."""
    folder, digits = tmp_path_factory.mktemp("priors"), load_dataset("digits")
    for kind, settings in SETTINGS.items():
        train_prior(digits, settings, folder / kind, "train")
    return {kind: folder / kind for kind in SETTINGS}


def _of(kind: str, path: Path) -> Any:
    settings = {"prior": kind, "prior_path": str(path)}
    attack: Any = build_attack("plug-and-play", settings)
    attack.check_available()
    return attack.prior_for(observe(example_victim().capture, attack.threat))


@pytest.mark.parametrize("kind", ["lpn", "diffusion"])
def test_a_prior_denoises_and_tells_digits_from_noise(files: dict[str, Path], kind: str) -> None:
    prior = _of(kind, files[kind])
    pixels = torch.from_numpy(load_dataset("digits").test.images[:20].copy())
    images = pixels.permute(0, 3, 1, 2).float() / 255
    random = torch.Generator().manual_seed(0)
    noisy = images + 0.2 * torch.randn(images.shape, generator=random)
    before = (noisy - images).square().mean()
    assert (prior.prox(noisy) - images).square().mean() < 0.8 * before
    assert prior.value(images).mean() < prior.value(noisy).mean()


@pytest.mark.parametrize("kind", ["lpn", "diffusion"])
def test_plug_and_play_uses_the_proximal_map_and_reports_the_value(
    files: dict[str, Path], kind: str
) -> None:
    given = {"prior": kind, "prior_path": str(files[kind]), "steps": 60, "inner_steps": 5}
    found = attacked("plug-and-play", RELU, [[0], [1]], **given)
    for one in found:
        prior = _of(kind, files[kind])
        assert one.rows[0]["prior_value"] == pytest.approx(
            float(prior.value(one.reconstruction.images)), rel=1e-4
        )
        assert one.rows[0]["seen"] is False
        assert one.rows[0]["threat"] == "data-enhanced eavesdropper (prior, training)"
    again = attacked("plug-and-play", RELU, [[0], [1]], **given)
    uncoupled = attacked("plug-and-play", RELU, [[0], [1]], coupling=0.0, **given)
    assert figures(again, "psnr") == figures(found, "psnr")
    assert figures(uncoupled, "psnr") != figures(found, "psnr")


def test_inverting_gradients_takes_any_prior_and_none_changes_nothing(
    files: dict[str, Path],
) -> None:
    few = {"steps": 15}
    plain = attacked("inverting-gradients", RELU, [[0]], **few)
    assert "prior_value" not in plain[0].rows[0]
    off = attacked("inverting-gradients", RELU, [[0]], prior="none", prior_weight=7.0, **few)
    assert torch.equal(plain[0].images, off[0].images)
    for settings in (
        {"prior": "total-variation"},
        {"prior": "gaussian"},
        {"prior": "lpn", "prior_path": str(files["lpn"])},
        {"prior": "diffusion", "prior_path": str(files["diffusion"])},
    ):
        found = attacked("inverting-gradients", RELU, [[0]], **few, **settings)
        assert not torch.equal(plain[0].images, found[0].images), settings
        assert found[0].rows[0]["prior_value"] is not None


def test_files_are_checked(files: dict[str, Path], tmp_path: Path) -> None:
    about, tensors = read_about(files["lpn"])
    assert (about.dataset, about.split, about.shape) == ("digits", "train", [1, 8, 8])
    assert len(tensors["seen"]) == len(load_dataset("digits").train)
    with pytest.raises(AttackError, match="is of kind 'lpn'; expected 'diffusion'"):
        read_prior(files["lpn"], "diffusion", (1, 8, 8))
    with pytest.raises(AttackError, match="of shape 1x8x8; expected those of the clients, 3x8x8"):
        read_prior(files["lpn"], "lpn", (3, 8, 8))
    other = tmp_path / "other"
    other.write_bytes(b"x")
    with pytest.raises(DataUnavailableError, match="is not a prior of 'atoll train-prior'"):
        read_about(other)
    with pytest.raises(AttackError, match="prior_path is not set; expected the file of prior = 'l"):
        build_attack("plug-and-play", {"prior": "lpn"}).check_available()
    with pytest.raises(AttackError, match="prior = 'gaussian' is read from no file"):
        settings = {"prior": "gaussian", "prior_path": str(other)}
        build_attack("plug-and-play", settings).check_available()


def test_one_seed_gives_one_prior(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    for kind, settings in SETTINGS.items():
        few = settings.model_copy(update={"steps": 3})
        states = []
        for place, seed in enumerate((0, 0, 1)):
            path = tmp_path / f"{kind}{place}"
            train_prior(digits, few.model_copy(update={"seed": seed}), path)
            states.append(path.read_bytes())
        assert states[0] == states[1] != states[2]


def test_a_score_network_takes_away_nothing_where_there_is_no_noise() -> None:
    network = ScoreNetwork((1, 8, 8), 8, 10.0)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network(images, torch.full((2,), 1e-6)), images, atol=1e-5, rtol=0)
    assert Diffusion(network, 0.1).value(images).shape == (2,)


@pytest.mark.slow
def test_guided_diffusion_beats_as_many_steps_of_inverting_gradients(
    files: dict[str, Path],
) -> None:
    victims = [[0], [1]]
    given = {"prior_path": str(files["diffusion"]), "levels": 30}
    every = attacked("guided-diffusion", RELU, victims, alignment=1.0, **given)
    assert {len(one.reconstruction.cost_path) for one in every} == {30}
    plain = attacked("inverting-gradients", RELU, victims, steps=30)
    assert fmean(figures(every, "psnr")) > fmean(figures(plain, "psnr")) + 3
    adaptive = attacked("guided-diffusion", RELU, victims, pause=4, **given)
    assert max(len(one.reconstruction.cost_path) for one in adaptive) <= 22
    assert fmean(figures(adaptive, "psnr")) > fmean(figures(every, "psnr")) - 2
    never = attacked("guided-diffusion", RELU, victims, alignment=0.0, pause=30, **given)
    assert {len(one.reconstruction.cost_path) for one in never} == {1}
    assert fmean(figures(never, "psnr")) < fmean(figures(every, "psnr")) - 3


def test_whom_a_victim_is_attacked_with_does_not_matter(files: dict[str, Path]) -> None:
    given = {"prior_path": str(files["diffusion"]), "levels": 6, "churn": 0.5, "pause": 2}
    together = attacked("guided-diffusion", RELU, [[0], [1]], **given)
    [alone] = attacked("guided-diffusion", RELU, [[0]], **given)
    torch.testing.assert_close(alone.images, together[0].images, rtol=0, atol=1e-3)
    [calm] = attacked("guided-diffusion", RELU, [[0]], **{**given, "churn": 0.0})
    assert not torch.equal(calm.images, alone.images)


def test_guided_diffusion_refuses_other_priors(files: dict[str, Path]) -> None:
    with pytest.raises(AttackError, match="prior = 'total-variation': expected 'diffusion'"):
        attacked("guided-diffusion", RELU, [[0]], prior="total-variation")
