"""``atoll train-prior``, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from atoll.attacks.generators import network_training
from atoll.attacks.priors.prior_files import PriorKind, read_about
from atoll.attacks.priors.prior_training import train_prior
from atoll.clients.data.catalog.loading import load_dataset
from atoll.platform.attack_runs.prior_training import SETTINGS
from atoll.platform.cli.application import application

SMALL = ["--set", "steps=3", "--set", "width=8", "--threads", "1"]


def train(*arguments: str) -> str:
    result = CliRunner().invoke(application, ["train-prior", *arguments])
    assert result.exit_code in (0, 2), result.output
    return result.output


@pytest.mark.parametrize("kind", ["lpn", "diffusion"])
def test_a_prior_is_trained_and_written(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "prior"
    output = train("digits", "--kind", kind, "--out", str(out), "--split", "train", *SMALL)
    assert f"a prior ({kind}) of digits from its train split" in output
    assert "step 3/3  loss" in output
    about, _ = read_about(out)
    assert (about.kind, about.split, about.width) == (kind, "train", 8)
    assert "exists; expected a new file" in train("digits", "--kind", kind, "--out", str(out))


@pytest.mark.parametrize("kind", ["lpn", "diffusion"])
def test_an_interrupted_training_is_resumed_to_the_same_bits(
    tmp_path: Path, kind: PriorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "SAVE_EVERY", 2)
    digits = load_dataset("digits")
    settings = SETTINGS[kind](steps=5, width=8, batch_size=4)
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    train_prior(digits, settings, whole)

    def interrupt(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_prior(digits, settings, interrupted, on_step=interrupt)
    assert not interrupted.exists()
    # Another training to the same file does not take up this one's state.
    steps: list[int] = []
    other = settings.model_copy(update={"seed": 1})
    train_prior(digits, other, interrupted, on_step=lambda step, loss: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]
    interrupted.unlink()
    steps.clear()
    train_prior(digits, settings, interrupted, on_step=lambda step, loss: steps.append(step))
    assert steps == [3, 4, 5]
    assert interrupted.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "interrupted"}


def test_bad_input_is_refused(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "prior")]
    assert "--kind flow: expected lpn or diffusion" in train("digits", "--kind", "flow", *out)
    assert "did you mean 'digits'" in train("digts", *out)
    assert "steps = 0: expected greater than 0" in train("digits", "--set", "steps=0", *out)
    nowhere = str(tmp_path / "no" / "prior")
    assert "there is no folder" in train("digits", "--out", nowhere)
    assert list(tmp_path.iterdir()) == []
