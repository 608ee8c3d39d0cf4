from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atoll.errors import RunDirectoryError
from atoll.files.atomic import write_json
from atoll.platform.config.experiment import Experiment
from atoll.platform.reports.tables import Table, as_markdown, as_text
from atoll.platform.sweeps.model_selection import Curve
from atoll.platform.sweeps.sweep_plan import Trial
from atoll.platform.sweeps.sweep_results import figures_of, read_curve, tables_of


def shown(table: Table) -> list[list[str]]:
    return [["-" if cell is None else str(cell) for cell in row] for row in table.rows]


def trial(seed: int, held_out: str, method: str = "erm") -> Trial:
    tables = {"run": {"seed": seed}, "data": {"held_out": [held_out]}}
    return Trial(method, (), Experiment.from_dict(tables))


def curve(seed: int, held_out: str, method: str = "erm", shift: float = 0.0) -> Curve:
    training = tuple(name for name in ("a", "b") if name != held_out)
    accuracy = {
        name: np.array([0.5 + place / 10 + seed / 100 + shift])
        for place, name in enumerate(("a", "b", "grey"))
    }
    return Curve(method, "{}", seed, (held_out,), training, np.array([1]), accuracy)


def test_means_and_standard_errors_are_over_seeds() -> None:
    figures = figures_of(
        [trial(seed, "a") for seed in (0, 1, 3)], [curve(seed, "a") for seed in (0, 1, 3)]
    )
    [figure] = [f for f in figures if f.domain == "b" and f.rule == "oracle (last)"]
    values = np.array([0.60, 0.61, 0.63])
    assert figure.mean == pytest.approx(values.mean())
    spread = math.sqrt(sum((values - values.mean()) ** 2) / 2)
    assert figure.standard_error == pytest.approx(spread / math.sqrt(3))
    assert (figure.seeds, figure.role, figure.target) == (3, "training", "a")
    roles = {f.domain: f.role for f in figures}
    assert roles == {"a": "held out", "b": "training", "grey": "probe"}


def test_with_one_target_all_domains_are_columns() -> None:
    figures = figures_of([trial(0, "a"), trial(1, "a")], [curve(0, "a"), curve(1, "a")])
    validation, _, best = tables_of(figures)
    assert validation.title == "training-domain validation"
    assert best.header == ["method", "a (held out)", "grey (probe)", "b (training)"]
    assert shown(best) == [
        ["erm", "50.5 ± 0.5 (2 seeds)", "70.5 ± 0.5 (2 seeds)", "60.5 ± 0.5 (2 seeds)"]
    ]


def test_with_several_targets_each_is_its_own_column_and_gaps_show() -> None:
    trials = [trial(0, "a"), trial(0, "b"), trial(0, "a", "hgp")]
    curves = [curve(0, "a"), curve(0, "b"), curve(0, "a", "hgp", 0.1)]
    table = tables_of(figures_of(trials, curves))[-1]
    assert table.header == ["method", "a (held out)", "b (held out)", "mean"]
    assert shown(table) == [
        ["erm", "50.0 (1 seed)", "60.0 (1 seed)", "55.0"],
        ["hgp", "60.0 (1 seed)", "-", "-"],
    ]
    lines = as_markdown(table).splitlines()
    assert lines[2:4] == ["| method | a (held out) | b (held out) | mean |", "|---|---|---|---|"]
    text = as_text(table).splitlines()
    assert text[2].index("60.0") == text[1].index("b (held out)")


def test_curves_are_the_evaluated_rounds_of_a_run_directory(tmp_path: Path) -> None:
    columns = {
        "round": [1, 2, 3],
        "server_accuracy": [None, 0.5, 0.6],
        "server_accuracy_art_deco": [None, 0.5, 0.6],
        "server_accuracy_photo": [None, 0.7, 0.8],
    }
    pq.write_table(pa.table(columns), tmp_path / "rounds.parquet")
    with pytest.raises(RunDirectoryError, match=r"has no partition\.json"):
        read_curve(trial(0, "art-deco"), tmp_path)
    about = {"domains": ["art-deco", "photo", "unseen"], "training_domains": ["photo"]}
    write_json(tmp_path / "partition.json", about)
    read = read_curve(trial(0, "art-deco"), tmp_path)
    assert read.rounds.tolist() == [2, 3]
    assert read.values["art-deco"].tolist() == [0.5, 0.6]
    assert (read.training, read.held_out) == (("photo",), ("art-deco",))
    write_json(tmp_path / "partition.json", {"domains": [], "training_domains": []})
    whole = read_curve(Trial("erm", (), Experiment()), tmp_path)
    assert whole.values["test"].tolist() == [0.5, 0.6]


def test_a_trial_that_was_stopped_before_its_first_evaluation_is_in_no_figure(
    tmp_path: Path,
) -> None:
    pq.write_table(
        pa.table({"round": [1, 2], "train_loss": [0.5, 0.4]}), tmp_path / "rounds.parquet"
    )
    write_json(tmp_path / "partition.json", {"domains": [], "training_domains": []})
    stopped = Trial("erm", (), Experiment())
    read = read_curve(stopped, tmp_path, is_whole=False)
    assert len(read.rounds) == len(read.values["test"]) == 0
    assert figures_of([stopped], [read]) == []
