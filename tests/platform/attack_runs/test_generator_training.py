"""``atoll train-generator``, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from atoll.attacks.generators.trained_generator import load_trained
from atoll.platform.cli.application import application

SMALL = ["--set", "steps=3", "--set", "width=8", "--set", "latent=4", "--threads", "1"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    return tmp_path


def train(*arguments: str) -> str:
    result = CliRunner().invoke(application, ["train-generator", *arguments])
    assert result.exit_code in (0, 2), result.output
    return result.output


def test_a_generator_is_trained_kept_and_shown(cache: Path) -> None:
    output = train("digits", *SMALL)
    assert "a generator of digits from its test split, 3 steps" in output
    assert "step 3/3  loss" in output
    [folder] = (cache / "generators").iterdir()
    with Image.open(folder / "samples.png") as samples:
        assert samples.size == (80, 80)
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    again = train("digits", *SMALL)
    assert "step" not in again
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    train("digits", *SMALL, "--split", "train", "--seed", "1")
    assert len(list((cache / "generators").iterdir())) == 2
    assert load_trained("digits", folder).stages == 4


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["digts"], "did you mean 'digits'"),
        (["digits", "--split", "all"], "--split all: expected test or train"),
        (["digits", "--set", "steps=0"], "steps = 0"),
        (["digits", "--set", "step=9"], "step"),
        (
            ["digits", "--set", "learning_rate=-1"],
            "learning_rate = -1: expected greater",
        ),
        (["digits", "--set", "width=7"], "width = 7: expected a multiple of 8"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], problem: str, cache: Path) -> None:
    assert problem in train(*arguments)
    assert not (cache / "generators").exists()
