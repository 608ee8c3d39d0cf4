"""Membership inference in an arena, on captures of real clients; and what the server spends."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atoll.platform.arenas.arena_membership import membership_rows, membership_table
from atoll.platform.arenas.arena_plan import Arena, facts_of, load_arena
from atoll.platform.reports.arena_report import write_arena_report
from atoll.platform.run_directory.run_files import ROUND_SCHEMA
from tests.support.attacks.captured_run import captured_run

ARENA = """
[run]
rounds = 1
[data]
dataset = "digits"
clients = 4
examples_per_client = 20
[model]
name = "mlp"
hidden = [32]
[client]
learning_rate = 0.1
batch_size = 5
epochs = 8
[strategy]
fraction_evaluate = 0.0
[capture]
nodes = "all"
rounds = [1]
[arena]
seeds = [0, 1]
sums = ["secagg"]
membership = 20
[arena.attacks.random-image]
[arena.defenses.none]
[arena.defenses.secagg]
[arena.defenses.central.privacy]
epsilon = 8.0
delta = 1e-3
sampling = "poisson"
"""


@pytest.fixture(scope="module")
def federations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arena, Path]:
    folder = tmp_path_factory.mktemp("arena")
    (folder / "arena.toml").write_text(ARENA)
    arena = load_arena(folder / "arena.toml")
    for trial in arena.federations.trials:
        place = captured_run(trial.experiment, folder / "federations" / "trials" / trial.name)
        done = {"rounds": 1, "metrics": {}, "wall_seconds": 1.0, "parameters_sha256": None}
        (place / "result.json").write_text(json.dumps(done))
        rounds = pa.Table.from_pylist([{"round": 1}], schema=ROUND_SCHEMA)
        spent = pa.array([7.5 + trial.seed if trial.method == "central" else None], pa.float64())
        pq.write_table(
            rounds.append_column("train_privacy_epsilon", spent), place / "rounds.parquet"
        )
    return arena, folder / "federations"


@pytest.mark.slow
def test_every_defense_is_asked_about_over_all_seeds(federations: tuple[Arena, Path]) -> None:
    arena, folder = federations
    rows = membership_rows(arena, folder)
    # The server of sums has no client's update.
    assert {row["defense"] for row in rows} == {"none", "central"}
    assert len(rows) == 2 * 2 * 4 * (20 + 20)
    facts = facts_of(arena, folder, {})
    table = list(membership_table(rows, facts))
    by_defense = {(row[1], row[3]): row for row in table}
    assert by_defense["none", "loss"][2] == "no guarantee"
    # The largest of the seeds, by the server's accountant.
    assert by_defense["central", "loss"][2] == "8.5 (delta = 0.001)"
    assert by_defense["none", "cosine"][-1] == f"{1 / 160:.2g}"
    area = float(by_defense["none", "cosine"][4].split()[0])
    assert area > 0.6


def test_scores_are_computed_once(federations: tuple[Arena, Path]) -> None:
    arena, folder = federations
    first = membership_rows(arena, folder)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("membership.parquet")}
    assert len(written) == 4
    assert membership_rows(arena, folder) == first
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_an_arena_without_membership_asks_nothing(federations: tuple[Arena, Path]) -> None:
    arena, folder = federations
    settings = arena.settings.model_copy(update={"membership": None})
    without = Arena(settings, arena.federations)
    assert membership_rows(without, folder) == []
    assert "membership" not in without.tables()["arena"]


def test_the_report_shows_membership(federations: tuple[Arena, Path], tmp_path: Path) -> None:
    arena, folder = federations
    facts = facts_of(arena, folder, {})
    page = write_arena_report(tmp_path, [], "random-image", {}, facts).read_text()
    assert "who of some candidates" not in page
    rows = list(membership_table(membership_rows(arena, folder), facts))
    told = facts.__class__(**{**vars(facts), "membership": rows})
    page = write_arena_report(tmp_path, [], "random-image", {}, told).read_text()
    assert "who of some candidates" in page
    assert "FedMIA" in page
