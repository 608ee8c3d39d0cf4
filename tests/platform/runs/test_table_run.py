"""A run on a table: its clients are written down, and it is continued as the same run."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atoll
from atoll.errors import RunDirectoryError
from atoll.platform.config.experiment import Experiment

pytestmark = pytest.mark.usefixtures("cluster")


def write_table(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["dose,kind,clinic,outcome"]
    for row in range(90):
        dose = rng.normal()
        shown = "" if row % 7 == 0 else f"{dose:.3f}"
        lines.append(f"{shown},{'ab'[row % 2]},{'xyz'[row % 3]},{dose + rng.normal():.3f}")
    path.write_text("\n".join(lines))
    return path


def experiment(path: Path, **tables: dict[str, Any]) -> Experiment:
    base: dict[str, dict[str, Any]] = {
        "run": {"rounds": 4, "checkpoint_every": 1},
        "data": {"dataset": "table", "path": str(path), "target": "outcome", "group": "clinic"},
        "model": {"name": "table-mlp", "hidden": [8]},
        "ray": {"workers": 2},
    }
    return Experiment.from_dict({k: {**v, **tables.get(k, {})} for k, v in base.items()})


@pytest.mark.long
def test_it_is_resumed_to_the_same_bits_and_refused_with_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    table = write_table(tmp_path / "doses.csv", 0)
    whole = atoll.run(experiment(table), out=tmp_path / "whole")
    one = atoll.run(experiment(table, ray={"workers": 1}), out=tmp_path / "one")
    assert one.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    data = tomllib.loads((tmp_path / "whole" / "config.toml").read_text())["data"]
    assert (data["clients"], data["partition"]["name"]) == (3, "natural-id")
    # The main metric of a regression, of all and of each clinic.
    assert {"server_rmse", "server_rmse_x", "server_mae_z"} <= set(whole.metrics)

    part = tmp_path / "part"
    atoll.run(experiment(table, run={"rounds": 2}), out=part)
    again = atoll.run(experiment(table), out=part, resume=True)
    assert again.summary["parameters_sha256"] == whole.summary["parameters_sha256"]

    write_table(table, 1)
    with pytest.raises(RunDirectoryError, match="the data"):
        atoll.run(experiment(table, run={"rounds": 6}), out=part, resume=True)
