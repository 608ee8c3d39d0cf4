"""Ways of matching gradients: the same search for each, resumable, with a generator outside."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.attacks.generators.trained_generator import image_hashes, load_trained
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.attacks.victims import references_of
from atoll.clients.data.catalog.loading import load_dataset
from benchmarks.privacy import matching_methods
from benchmarks.privacy.example_clients import half_width
from benchmarks.privacy.matching_methods import (
    METHODS,
    OTHERS,
    attack_of,
    best_variation,
    make_generator,
    matching_lines,
    run_matching,
)


class NoDistance:
    """LPIPS without its weights, which are downloaded."""

    def __init__(self, network: str) -> None:
        self.network = network

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        return torch.zeros(len(images))


def trial(**changed: Any) -> dict[str, Any]:
    own = {
        "model": "resnet8",
        "method": "Inverting Gradients",
        "restarts": 1,
        "tv": 1e-3,
        "first": 0,
        "psnr": [10.0],
        "ssim": [0.5],
        "lpips": [0.25],
        "identified": [1.0],
        "cpu seconds": 2.0,
    }
    return {**own, **changed}


def test_the_total_variation_is_the_best_on_the_images_of_the_search_alone() -> None:
    trials = [
        trial(first=OTHERS, tv=1e-3, psnr=[9.0, 11.0]),
        trial(first=OTHERS, tv=1e-2, psnr=[12.0, 12.0]),
        trial(first=OTHERS, tv=1e-3, psnr=[20.0], model="resnet18, quarter width"),
        trial(first=0, tv=1e-3, psnr=[30.0]),
    ]
    assert best_variation(trials, "resnet8", "Inverting Gradients", 1) == 1e-2


def test_a_row_is_paired_by_image_with_the_first() -> None:
    trials = [
        trial(first=OTHERS, psnr=[99.0]),
        # Blocks are put in order, however they came.
        trial(first=2, psnr=[14.0]),
        trial(first=0, psnr=[10.0, 12.0], ssim=[0.1, 0.2], lpips=[0.3, 0.4], identified=[0.0, 1.0]),
        trial(first=0, method="GIFD", psnr=[11.0, 15.0], tv=1e-2),
    ]
    lines = matching_lines(trials)
    assert lines[-2].startswith("| Inverting Gradients | 1 | 0.001 | 3 | 12.00 | +0.00 ± 0.00 |")
    assert f"| 13.00 | +2.00 ± {half_width([1.0, 3.0]):.2f} |" in lines[-1]
    assert "| 2 of 3 |" in lines[-2]


def test_the_generator_has_seen_neither_clients_nor_the_gallery(tmp_path: Path) -> None:
    digits, folder = load_dataset("digits"), tmp_path / "generator"
    make_generator(digits, TrainingSettings(steps=2, width=8, latent=4), folder)
    generator = load_trained(folder.name, folder)
    gallery = (references_of(digits).candidates * 255).round().byte().permute(0, 2, 3, 1)
    for images in (gallery.numpy(), digits.train.images):
        assert not np.intersect1d(image_hashes(images), generator.seen).size
    assert generator.has_seen(digits.test.images[::2]).all()
    written = (folder / "weights.safetensors").stat().st_mtime_ns
    make_generator(digits, TrainingSettings(steps=2, width=8, latent=4), folder)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == written
    for method in METHODS:
        attack = attack_of(method, 11, 1, 1e-2, folder)
        each = attack.steps
        assert (sum(each) if isinstance(each, tuple) else each) == 11


@pytest.mark.slow
def test_trials_that_are_there_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching_methods, "LPIPS", NoDistance)
    out = tmp_path / "trials.json"
    given = argparse.Namespace(
        datasets=["digits"],
        models=["resnet8"],
        restarts=[1],
        methods=["Inverting Gradients", "tenth of the entries matched"],
        steps=2,
        others=1,
        victims=3,
        block=2,
        generator=tmp_path / "none",
        seconds=0.0,
    )
    run_matching(given, out)
    given.seconds = 1e9
    run_matching(given, out)
    found = json.loads(out.read_text())
    assert [(t["method"], t["first"], len(t["psnr"])) for t in found[6:]] == [
        ("Inverting Gradients", 0, 2),
        ("tenth of the entries matched", 0, 2),
        ("Inverting Gradients", 2, 1),
        ("tenth of the entries matched", 2, 1),
    ]
    monkeypatch.setattr(matching_methods, "attack_of", None)
    run_matching(given, out)
    assert json.loads(out.read_text()) == found
