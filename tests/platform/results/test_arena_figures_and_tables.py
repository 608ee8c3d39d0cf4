"""An arena's table and figure, from the rows that an arena leaves."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pytest

from atoll.files.recorded import write_recorded_json, write_recorded_rows, write_recorded_text
from tests.support.runs.finished_runs import command, refused
from tests.support.runs.foreign_files import write_run

DEFENSES, ATTACKS = ("none", "dp"), ("ig", "random-image")


def psnr(attack: str, defense: str, seed: int) -> float:
    return {"ig": 20.0, "random-image": 8.0}[attack] - (5.0 if defense == "dp" else 0.0) + seed


@pytest.fixture
def arena(tmp_path: Path) -> Path:
    directory = tmp_path / "arena"
    (directory / "federations").mkdir(parents=True)
    write_recorded_text(
        directory / "arena.toml",
        "[run]\ntags = ['privacy']\n[data]\ndataset = 'digits'\nclients = 4\n"
        "[arena.attacks.ig]\n[arena.attacks.random-image]\n"
        "[arena.defenses.none]\n[arena.defenses.dp]\n",
    )
    rows = [
        {
            "setting": "as in the file",
            "round": 1,
            "attack_label": attack,
            "attack": attack,
            "knowledge": "naive",
            "defense": defense,
            "seed": seed,
            "node_id": 1,
            "image": 0,
            "threat": "eavesdropper",
            "label_source": "given",
            "accuracy": 0.9 - seed / 100,
            "psnr": psnr(attack, defense, seed),
            "ssim": 0.5,
            "lpips": None,
            "mse": 0.1,
            "identified": seed == 0,
            "label_accuracy": 1.0,
            "key": f"{attack}-{seed}",
        }
        for attack, defense, seed in itertools.product(ATTACKS, DEFENSES, (0, 1, 2))
    ]
    write_recorded_rows(directory / "results.parquet", rows)
    write_recorded_json(directory / "failed.json", {})
    return directory


def test_an_arenas_table_has_means_over_victims(arena: Path) -> None:
    code, stdout, stderr = command("compare", arena, "--csv")
    assert code == 0, stderr
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert [(row["attack"], row["defense"]) for row in rows] == list(
        itertools.product(ATTACKS, DEFENSES)
    )
    for row in rows:
        values = [psnr(row["attack"], row["defense"], seed) for seed in (0, 1, 2)]
        assert float(row["psnr"]) == pytest.approx(np.mean(values))
        assert min(values) <= float(row["psnr low"]) < float(row["psnr high"]) <= max(values)
        assert row["psnr n"] == "3"
    assert "lpips" not in stdout
    _, latex, _ = command("compare", arena, "--latex")
    assert r"label\_accuracy" in latex


def test_an_arenas_figure_names_attacks_and_defenses(arena: Path, tmp_path: Path) -> None:
    out = tmp_path / "arena.svg"
    code, _, stderr = command("plot", arena, "--metric", "psnr", "--out", out)
    assert code == 0, stderr
    picture = out.read_text()
    for text in (*DEFENSES, *ATTACKS, "PSNR, dB"):
        assert f">{text}</text>" in picture
    assert "did you mean 'psnr'?" in refused("plot", arena, "--metric", "psnrr", "--out", out)
    said = refused("plot", arena, arena, "--out", out)
    assert "is an arena; expected it alone" in said


def test_an_arena_is_listed(arena: Path) -> None:
    code, stdout, _ = command("runs", arena.parent, "--kind", "arena", "--tag", "privacy")
    assert code == 0
    assert "ig, random-image against none, dp" in stdout
    assert "finished" in stdout


def test_an_arena_without_results_is_refused(arena: Path) -> None:
    (arena / "results.parquet").unlink()
    assert "results.parquet: is missing; expected an arena that has ended" in refused(
        "compare", arena
    )


def test_an_attacks_table_is_all_that_is_written_as_csv(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    more = ("--attack", "random-image", "--lpips", "none", "--csv")
    code, stdout, stderr = command("attack", directory, *more)
    assert code == 0, stderr
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(stdout))}
    assert set(next(iter(rows.values()))) == {"metric", "mean", "least", "most"}
    assert float(rows["PSNR, dB"]["least"]) <= float(rows["PSNR, dB"]["mean"])
    assert "rows and pictures" in stderr
    _, latex, _ = command("attack", directory, *more[:-1], "--latex")
    assert latex.startswith("% random-image on 4 images of 1 updates")
    assert r"\toprule" in latex


def test_a_reports_figures_are_a_table_too(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    code, stdout, stderr = command("report", directory, "--csv")
    assert code == 0, stderr
    rows = dict(csv.reader(io.StringIO(stdout)))
    assert rows["server accuracy"] == "0.5000"
