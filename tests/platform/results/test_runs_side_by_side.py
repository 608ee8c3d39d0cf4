"""``atoll runs``, ``compare`` and ``plot`` on real runs."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import atoll
from atoll.platform.results.groups import grouped, series_of
from atoll.platform.results.plots import Series, y_range
from atoll.platform.results.recorded import read_recorded
from atoll.platform.run_directory.run_lock import RunLock, is_in_use
from tests.support.runs.finished_runs import ROUNDS, command, finished, refused

pytestmark = pytest.mark.ray

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in SEEDS:
        finished(folder / "slow" / f"seed-{seed}", "slow", seed, client={"learning_rate": 0.05})
        finished(folder / "fast" / f"seed-{seed}", "fast", seed, client={"learning_rate": 0.2})
    finished(folder / "few", "few", data={"test_examples": 50})
    return folder


def all_of(runs: Path, *names: str) -> list[Path]:
    return [path for name in names for path in sorted((runs / name).iterdir())]


def last(directory: Path, metric: str = "server_accuracy") -> float:
    return atoll.open_run(directory).rounds.column(metric).to_pylist()[-1]


# --- atoll runs --------------------------------------------------------------------------------


def listed(*arguments: object) -> list[dict]:
    code, stdout, stderr = command("runs", *arguments, "--json")
    assert code == 0, stderr
    return json.loads(stdout)


def test_runs_are_listed_with_their_figures(runs: Path) -> None:
    entries = {entry["name"]: entry for entry in listed(runs)}
    assert set(entries) == {
        "few",
        *(f"{name}/seed-{seed}" for name in ("slow", "fast") for seed in SEEDS),
    }
    entry = entries["fast/seed-1"]
    assert entry["value"] == last(runs / "fast" / "seed-1")
    assert (entry["tags"], entry["state"]) == (["paper", "fast"], "finished")
    assert (entry["done"], entry["of"], entry["method"]) == (ROUNDS, ROUNDS, "FedAvg")
    assert entry["data"] == "digits, 4 clients"
    _, stdout, _ = command("runs", runs)
    assert re.search(r"fast/seed-1 +run +paper fast +20\d\d-.* finished +FedAvg", stdout)


def test_runs_are_filtered_and_sorted(runs: Path) -> None:
    assert {e["name"] for e in listed(runs, "--tag", "paper", "--tag", "few")} == {"few"}
    fast = listed(runs, "--where", "client.learning_rate=0.2")
    assert {e["name"] for e in fast} == {f"fast/seed-{seed}" for seed in SEEDS}
    assert [e["name"] for e in listed(runs, "--name", "s*", "--sort", "name")] == [
        f"slow/seed-{seed}" for seed in SEEDS
    ]
    values = [e["value"] for e in listed(runs, "--sort", "metric")]
    assert values == sorted(values, reverse=True)
    losses = [e["value"] for e in listed(runs, "--sort", "metric", "--metric", "server_loss")]
    assert losses == sorted(losses)
    assert listed(runs, "--state", "running") == listed(runs, "--kind", "sweep") == []


def test_a_broken_run_is_a_line_and_one_that_runs_says_so(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "few", tmp_path / "broken")
    (tmp_path / "broken" / "result.json").write_text("{")
    shutil.copytree(runs / "few", tmp_path / "killed")
    (tmp_path / "killed" / "result.json").unlink()
    (tmp_path / "killed" / "manifest.json").unlink()
    states = {e["name"]: e["state"] for e in listed(tmp_path)}
    assert states == {"broken": "unreadable", "killed": "interrupted"}
    _, _, stderr = command("runs", tmp_path)
    assert "result.json" in stderr
    assert not is_in_use(tmp_path / "killed")
    with RunLock(tmp_path / "killed"):
        assert is_in_use(tmp_path / "killed")
        assert {e["state"] for e in listed(tmp_path, "--name", "killed")} == {"running"}


def test_a_folder_with_the_file_of_a_sweep_or_an_arena_is_neither(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "few", tmp_path / "few")
    for name in ("sweep.toml", "arena.toml"):
        (tmp_path / name).write_text("run.rounds = 1")
        assert [(e["name"], e["kind"]) for e in listed(tmp_path)] == [("few", "run")]


def test_what_runs_refuses_is_one_line(runs: Path, tmp_path: Path) -> None:
    assert "no such folder; expected a folder" in refused("runs", tmp_path / "none")
    assert "--sort size: expected date, name" in refused("runs", runs, "--sort", "size")
    assert "--state done: expected finished" in refused("runs", runs, "--state", "done")
    assert "expected section.key=value" in refused("runs", runs, "--where", "seed")
    assert "--latex and --csv: expected one" in refused("runs", runs, "--latex", "--csv")


# --- atoll compare -----------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_are_one_row_with_students_interval(
    runs: Path, tmp_path: Path
) -> None:
    directories = all_of(runs, "slow", "fast")
    out = tmp_path / "page.html"
    code, stdout, stderr = command("compare", *directories, "--csv", "--out", out)
    assert code == 0, stderr
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert [row["run"] for row in rows] == [
        "client.learning_rate = 0.05",
        "client.learning_rate = 0.2",
    ]
    for row, name in zip(rows, ("slow", "fast"), strict=True):
        values = np.array([last(path) for path in all_of(runs, name)])
        low, high = stats.t.interval(0.95, len(SEEDS) - 1, values.mean(), stats.sem(values))
        assert float(row["server_accuracy"]) == pytest.approx(values.mean())
        assert float(row["server_accuracy low"]) == pytest.approx(low)
        assert float(row["server_accuracy high"]) == pytest.approx(high)
        assert row["server_accuracy n"] == str(len(SEEDS))
    page = out.read_text()
    assert f"client.learning_rate = 0.05 ({len(SEEDS)} seeds)" in page
    assert "Test accuracy" in page
    assert f"A comparison of {2 * len(SEEDS)} runs." in page
    assert 'src="http' not in page


def test_the_text_shows_what_differs(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, _ = command("compare", *all_of(runs, "slow", "fast"))
    assert code == 0
    assert re.search(r"^client.learning_rate +0.05 +0.2$", stdout, re.MULTILINE)
    assert "run.name" not in stdout
    assert (tmp_path / "comparison.html").is_file()
    # A page that is there is not overwritten.
    command("compare", *all_of(runs, "slow", "fast"))
    assert (tmp_path / "comparison-2.html").is_file()
    _, latex, _ = command("compare", *all_of(runs, "slow", "fast"), "--latex")
    assert r"client.learning\_rate & 0.05 & 0.2 \\" in latex
    assert latex.count(r"\begin{tabular}") == 2
    assert not (tmp_path / "comparison-3.html").exists()


def test_different_data_are_not_compared_silently(runs: Path, tmp_path: Path) -> None:
    both = (runs / "few", runs / "fast" / "seed-0")
    out = tmp_path / "page.html"
    said = refused("compare", *both, "--out", out)
    assert "data.test_examples = 50 and None; expected runs on the same data" in said
    assert not out.exists()
    code, _, stderr = command("compare", *both, "--out", out, "--anyway")
    assert code == 0
    assert "warning" in stderr
    assert "figures are of different data" in out.read_text()
    assert "figures are of different data" in refused("plot", *both, "--out", tmp_path / "x.pdf")


def test_a_metric_that_is_not_there_is_named(runs: Path, tmp_path: Path) -> None:
    few = runs / "few"
    said = refused("compare", few, "--metric", "server_acuracy", "--out", tmp_path / "x.html")
    assert "did you mean 'server_accuracy'?" in said
    assert "is not a run directory" in refused("compare", tmp_path)


# --- atoll plot --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "begin"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")]
)
def test_figures_are_files_of_their_kind(
    runs: Path, tmp_path: Path, suffix: str, begin: bytes
) -> None:
    outs = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for out in outs:
        code, stdout, stderr = command("plot", *all_of(runs, "slow", "fast"), "--out", out)
        assert code == 0, stderr
        assert stdout == f"figure: {out}\n"
    assert outs[0].read_bytes().startswith(begin)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_figure_names_its_axes_and_methods_and_has_no_title(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.svg"
    command("plot", *all_of(runs, "slow", "fast"), "--out", out, "--band", "interval")
    picture = out.read_text()
    for text in ("test accuracy", "round", "client.learning_rate = 0.05"):
        assert f">{text}</text>" in picture
    assert "clients, " not in picture
    command("plot", runs / "few", "--metric", "server_loss", "--metric", "partition", "--out", out)
    picture = out.read_text()
    for text in ("test loss", "client", "class", "examples"):
        assert f">{text}</text>" in picture


def test_bands_reach_over_the_seeds(runs: Path) -> None:
    [group] = grouped(read_recorded(all_of(runs, "fast")))
    values = np.array(
        [
            atoll.open_run(path).rounds.column("server_accuracy").to_pylist()
            for path in all_of(runs, "fast")
        ]
    )
    whole = series_of(group, "server_accuracy", "range")
    assert whole is not None
    np.testing.assert_allclose(whole.mean, values.mean(0))
    np.testing.assert_allclose([whole.low, whole.high], [values.min(0), values.max(0)])
    interval = series_of(group, "server_accuracy", "interval")
    assert interval is not None
    low, high = stats.t.interval(0.95, len(SEEDS) - 1, values.mean(0), stats.sem(values))
    np.testing.assert_allclose([interval.low, interval.high], [low, high])


def test_the_axis_shows_the_late_rounds() -> None:
    rounds = np.arange(1, 101)
    values = 0.98 - 0.9 * np.exp(-rounds / 5)
    series = Series("x", rounds, values, values, values, 1)
    low, high = y_range([series])
    assert high == values.max()
    assert 0.94 < low < 0.98
    steady = Series("x", rounds, rounds / 100, rounds / 100, rounds / 100, 1)
    assert y_range([steady]) == (0.01, 1.0)


def test_what_cannot_be_drawn_is_one_line(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = runs / "few"
    assert "ends in .pdf, .svg, .png" in refused("plot", few, "--out", tmp_path / "x.gif")
    said = refused("plot", few, "--out", tmp_path / "x.pdf", "--metric", "psnr")
    assert "has such a metric" in said
    said = refused("plot", few, "--out", tmp_path / "x.pdf", "--ylim", 1, 0)
    assert "--ylim 1 0: expected the lower end first" in said
    said = refused("plot", few, "--out", tmp_path / "x.pdf", "--held-out", "e0.9")
    assert "--held-out e0.9: no run holds that out" in said
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refused("plot", few, "--out", tmp_path / "x.pdf")
    assert 'atoll plot needs matplotlib: pip install "atoll[plot]"' in said


# --- sweeps ------------------------------------------------------------------------------------


SWEEP = """
run = { name = "two", rounds = 3 }
data = { dataset = "colored-digits", clients = 2, partition = { name = "domain" } }
model = { name = "mlp-irm", hidden = 8 }
client = { learning_rate = 0.1, steps = 3, vectorize = false }
ray = { workers = 1 }
[sweep.grid]
"run.seed" = [0, 1]
"data.held_out" = [["e0.9"], ["e0.1"]]
[sweep.variants.ERM]
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.toml").write_text(SWEEP)
    code, stdout, stderr = command(
        *("sweep", folder / "sweep.toml", "--out", folder / "two", "--csv")
    )
    assert code == 0, stderr
    return folder / "two", stdout


@pytest.mark.long
def test_a_sweeps_table_as_csv_is_all_that_it_prints(sweep: tuple[Path, str]) -> None:
    directory, stdout = sweep
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert {row["method"] for row in rows} == {"ERM"}
    assert "oracle (last)" in {row["table"] for row in rows}
    [row] = [row for row in rows if row["table"] == "oracle (last)"]
    values = [
        last(directory / "trials" / path.name, "server_accuracy_e0.9")
        for path in (directory / "trials").iterdir()
        if path.is_dir() and atoll.open_run(path).config.data.held_out == ("e0.9",)
    ]
    assert float(row["e0.9 (held out)"]) == pytest.approx(np.mean(values))
    assert row["e0.9 (held out) n"] == "2"


@pytest.mark.long
def test_trials_that_held_a_domain_out_are_not_pooled_with_those_that_had_it(
    sweep: tuple[Path, str], tmp_path: Path
) -> None:
    directory, _ = sweep
    groups = grouped(read_recorded([directory]))
    assert sorted((g.data.held_out, len(g.runs)) for g in groups) == [
        (("e0.1",), 2),
        (("e0.9",), 2),
    ]
    out = tmp_path / "x.svg"
    metric = ("--metric", "server_accuracy_e0.9")
    assert command("plot", directory, *metric, "--out", out)[0] == 0
    picture = out.read_text()
    assert "held out e0.9" in picture
    assert "held out e0.1" in picture
    assert command("plot", directory, *metric, "--held-out", "e0.9", "--out", out)[0] == 0
    assert "held out" not in out.read_text()
    code, stdout, stderr = command("compare", directory)
    assert code == 0, stderr
    assert (directory / "comparison.html").is_file()
    assert "metrics, colored-digits, held out e0.9" in stdout
    assert "metrics, colored-digits, held out e0.1" in stdout


@pytest.mark.long
def test_a_sweep_is_listed_with_its_best_trial(sweep: tuple[Path, str]) -> None:
    directory, _ = sweep
    [entry] = listed(directory.parent)
    assert (entry["kind"], entry["state"], entry["method"]) == ("sweep", "finished", "ERM")
    assert (entry["done"], entry["of"]) == (4, 4)
    trials = [path for path in (directory / "trials").iterdir() if path.is_dir()]
    assert entry["value"] == max(map(last, trials))
