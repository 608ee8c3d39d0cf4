"""Adapt-then-Unlearn: the repulsion terms against their closed forms, and a class that goes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.attacks.generators.class_unlearning import (
    ClassUnlearningSettings,
    Repulsion,
    repulsion_of,
    squared_distance,
    unlearn_class,
)
from atoll.attacks.generators.sample_judge import frechet_distance
from atoll.attacks.generators.trained_generator import load_trained, read_about
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.platform.unlearning.class_unlearning_run import class_number
from tests.support.attacks.digit_generator import digit_generator
from tests.support.runs.finished_runs import command, refused

UNDESIRED = 3


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [
        # Of the distance 5: 1 / 25, -25, exp(-0.1 * 25); and their derivatives by its square.
        ("il2", 1 / 25, -1 / 625),
        ("nl2", -25.0, -1.0),
        ("el2", math.exp(-2.5), -0.1 * math.exp(-2.5)),
        ("none", 0.0, 0.0),
    ],
)
def test_each_repulsion_is_its_closed_form(kind: Repulsion, value: float, slope: float) -> None:
    here = [torch.tensor([3.0, 0.0], dtype=torch.float64).requires_grad_(), torch.zeros(1).double()]
    there = [torch.tensor([0.0, 4.0], dtype=torch.float64), torch.zeros(1).double()]
    squared = squared_distance(here, there)
    found = repulsion_of(kind, squared, alpha=0.1)
    assert float(found.detach()) == pytest.approx(value)
    if kind != "none":
        gradient = torch.autograd.grad(found, here[0])[0]
        assert gradient.tolist() == pytest.approx([slope * 2 * 3.0, slope * 2 * -4.0])


def test_the_frechet_distance_of_diagonal_gaussians_is_its_closed_form() -> None:
    random = np.random.default_rng(0)
    sample = random.normal(size=(4000, 3))
    sample = (sample - sample.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(sample.T))).T
    other = sample * [2.0, 1.0, 0.5] + [1.0, 0.0, 0.0]
    # The squared shift, and (1 - deviation)^2 of each axis.
    assert frechet_distance(sample, other) == pytest.approx(1.0 + 1.0 + 0.0 + 0.25, abs=1e-6)


def unlearned(**settings: object) -> torch.nn.Module:
    folder = digit_generator()
    digits = load_dataset("digits")
    about = read_about(folder)
    training = TrainingSettings.model_validate(about.settings)
    short = {"encoder_steps": 30, "adapt_steps": 30, "steps": 40, **settings}
    given = ClassUnlearningSettings.model_validate(short)
    original = load_trained("digits", folder)
    examples = digits.train.images, digits.train.labels
    return unlearn_class(original, training, *examples, UNDESIRED, given)


@pytest.mark.slow
def test_repulsion_changes_what_is_drawn_of_the_class_and_little_else() -> None:
    original = load_trained("digits", digit_generator())
    control, repelled = unlearned(repulsion="none"), unlearned(repulsion="nl2", gamma=0.3)
    again = unlearned(repulsion="nl2", gamma=0.3)
    assert all(
        torch.equal(a, b) for a, b in zip(repelled.parameters(), again.parameters(), strict=True)
    )
    labels = torch.arange(200) % 10
    drawn = [
        generator.sample(labels, torch.Generator().manual_seed(0))  # type: ignore[operator]
        for generator in (original, control, repelled)
    ]
    of_class, others = labels == UNDESIRED, labels != UNDESIRED

    def change(images: torch.Tensor, chosen: torch.Tensor) -> float:
        return float((images - drawn[0])[chosen].square().mean())

    assert change(drawn[2], of_class) > 1.5 * change(drawn[1], of_class)
    assert change(drawn[2], of_class) > 2 * change(drawn[2], others)


@pytest.mark.slow
def test_the_command_writes_a_generator_that_attacks_read(tmp_path: Path) -> None:
    folder, out = digit_generator(), tmp_path / "without"
    short = [
        word for key in ("encoder_steps", "adapt_steps", "steps") for word in ("--set", f"{key}=5")
    ]
    given = ("unlearn-class", folder, "--class", UNDESIRED, "--threads", 1, *short)
    code, shown, _ = command(*given, "--out", out)
    assert code == 0
    assert "samples taken for 3" in shown
    found = load_trained("digits", out)
    assert found.image_shape == (1, 8, 8)
    assert len(found.seen) == len(load_trained("digits", folder).seen)
    assert "is there already" in refused(*given, "--out", out)
    line = refused("unlearn-class", folder, "--class", "12", "--out", tmp_path / "other")
    assert "--class 12: digits has no such class" in line
    line = refused(*given, "--out", tmp_path / "other", "--set", "gamma=-1")
    assert "gamma = -1" in line


def test_a_class_is_its_name_or_its_number() -> None:
    digits = load_dataset("digits")
    assert class_number(digits, "7") == 7


def test_without_images_of_the_class_nothing_is_unlearned() -> None:
    folder = digit_generator()
    digits, original = load_dataset("digits"), load_trained("digits", folder)
    training = TrainingSettings.model_validate(read_about(folder).settings)
    kept = digits.train.labels != UNDESIRED
    examples = digits.train.images[kept], digits.train.labels[kept]
    with pytest.raises(ValueError, match="class 3: expected images of it"):
        unlearn_class(original, training, *examples, UNDESIRED, ClassUnlearningSettings())
