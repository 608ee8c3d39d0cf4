"""``[privacy]``: what is refused, the noise that is found, and a run that keeps its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atoll.attacks.defenses.base.privacy_accounting import gaussian_epsilon
from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.platform.config.experiment import Experiment
from atoll.platform.reports.figures.drawing import Curves, Level
from atoll.platform.reports.figures.privacy_figures import privacy_figures
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.components import Components
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run
from atoll.strategies import CentralDP


def experiment(
    privacy: dict[str, Any] | None = None,
    *,
    strategy: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    rounds: int = 3,
) -> Experiment:
    budget = {"epsilon": 4.0, "delta": 1e-3, **(privacy or {})}
    return Experiment.from_dict(
        {
            "run": {"rounds": rounds, "evaluate_every": rounds},
            "data": {"dataset": "digits", "clients": 20, "examples_per_client": 30},
            "model": model or {"name": "mlp", "hidden": [8]},
            "client": {"batch_size": 16, **(client or {})},
            "strategy": {
                "name": "FedAvg",
                "fraction_train": 0.5,
                "fraction_evaluate": 0.0,
                **(strategy or {}),
            },
            "ray": {"workers": 1},
            "privacy": budget,
        }
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"privacy": {"mechanism": "tree"}}, "privacy.sampling = 'fixed': .* expected 'epochs'"),
        (
            {"privacy": {"mechanism": "tree", "sampling": "epochs", "clipping": "adaptive"}},
            "privacy.clipping = 'adaptive': the tree's noise is for one norm",
        ),
        ({"privacy": {"accountant": "pld"}}, "privacy.accountant = 'pld': .* expected 'rdp'"),
        (
            {"privacy": {"level": "example", "sampling": "poisson"}},
            "privacy.sampling = 'poisson': is of privacy.level = 'client'",
        ),
        (
            {"privacy": {"level": "example"}, "client": {"mods": ["dp-sgd"]}},
            "client.mods has 'dp-sgd': privacy.level = 'example' adds it",
        ),
        (
            {"privacy": {"level": "example"}, "client": {"steps": 3}},
            "client.steps = 3: .* expected client.epochs",
        ),
        ({"strategy": {"name": "FedMedian"}}, "'FedMedian': .* expected a strategy of the mean"),
        ({"strategy": {"name": "FedBuff", "fraction_train": 0.5}}, "FedBuff"),
        (
            {"privacy": {"noise_multiplier": 0.1}},
            "privacy.noise_multiplier = 0.1: the first round spends epsilon",
        ),
        (
            {"privacy": {"epsilon": 0.02, "clipping": "adaptive"}},
            "privacy.clipping = 'adaptive' with 10 clients a round: .* expected a larger cohort",
        ),
        ({"privacy": {"epsilon": 0.0}}, "privacy.epsilon = 0"),
        ({"privacy": {"quantile": 1.0}}, "privacy.quantile = 1"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_private_is_refused_before_data_are_read(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        check_settings(experiment(**arguments))


@pytest.mark.slow
def test_buffers_are_refused() -> None:
    with pytest.raises(InvalidExperimentError, match="expected a model without BatchNorm"):
        prepare(experiment(model={"name": "resnet8", "norm": "batch"}))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["fixed", "poisson", "epochs"])
def test_the_noise_is_found_from_the_budget(sampling: str) -> None:
    small, large = (
        Components.of(experiment({"sampling": sampling, "epsilon": epsilon})).strategy
        for epsilon in (1.0, 10.0)
    )
    assert isinstance(small, CentralDP)
    assert isinstance(large, CentralDP)
    assert small.noise_multiplier > large.noise_multiplier
    assert 0.98 < small.epsilon(3) <= 1.0 < small.epsilon(50)


def test_privacy_of_examples_is_dp_sgd_with_the_noise_of_the_budget() -> None:
    private = experiment({"level": "example", "epsilon": 2.0}, client={"epochs": 2})
    [mod] = prepare(private).spec.client.mods
    noise = mod.arguments["noise_multiplier"]  # type: ignore[union-attr]
    assert 1.98 < gaussian_epsilon(noise, 3 * 2, 1e-3) <= 2.0
    # What is written down is the experiment as it was given.
    assert not private.client.mods


def test_other_rounds_are_another_run_where_the_noise_was_found_for_them(tmp_path: Path) -> None:
    RunIdentity(experiment(rounds=3).to_dict()).write(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"run.rounds: 3 there, 5 now"):
        RunIdentity(experiment(rounds=5).to_dict()).check_same(tmp_path)


def test_a_run_stops_before_its_budget_is_overspent(tmp_path: Path, cluster: None) -> None:
    given = experiment({"noise_multiplier": 2.0, "epsilon": 3.0, "sampling": "poisson"}, rounds=12)
    result = run(given, out=tmp_path / "run")
    rows = pq.read_table(result.directory / "rounds.parquet").to_pylist()
    spent = [row["train_privacy_epsilon"] for row in rows]
    assert spent == sorted(spent)
    assert len(rows) < 12
    strategy = Components.of(given).strategy
    assert isinstance(strategy, CentralDP)
    assert spent[-1] == strategy.epsilon(len(rows)) <= 3.0 < strategy.epsilon(len(rows) + 1)
    assert {row["train_privacy_delta"] for row in rows} == {1e-3}
    # The report has the curve, the budget as a line across, and the last value at its head.
    tables = [pq.read_table(result.directory / f"{name}.parquet") for name in ("rounds", "clients")]
    [(title, figure)] = privacy_figures(*tables, {"epsilon": 3.0})
    assert isinstance(figure, Curves)
    assert (figure.series[0].y, figure.level) == (spent, Level("budget", 3.0))
    page = (result.directory / "report.html").read_text()
    assert title in page
    assert f"epsilon = {spent[-1]:g} at delta = 0.001" in page


@pytest.mark.long
@pytest.mark.slow
def test_a_private_run_has_the_same_bits_however_many_workers(
    tmp_path: Path, cluster: None
) -> None:
    tables = experiment({"sampling": "epochs"}, rounds=2).to_dict()
    hashes = set()
    for workers in (1, 2):
        tables["ray"]["workers"] = workers
        result = run(Experiment.from_dict(tables), out=tmp_path / str(workers))
        hashes.add(result.summary["parameters_sha256"])
    assert len(hashes) == 1
