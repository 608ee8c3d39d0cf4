"""``atoll train-prior``, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from atoll.attacks.priors.prior_files import read_about
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


def test_bad_input_is_refused(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "prior")]
    assert "--kind flow: expected lpn or diffusion" in train("digits", "--kind", "flow", *out)
    assert "did you mean 'digits'" in train("digts", *out)
    assert "steps = 0: expected greater than 0" in train("digits", "--set", "steps=0", *out)
    nowhere = str(tmp_path / "no" / "prior")
    assert "there is no folder" in train("digits", "--out", nowhere)
    assert list(tmp_path.iterdir()) == []
