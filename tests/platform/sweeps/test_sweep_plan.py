"""From a sweep file to its trials; every mistake in it is a clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment, load_experiment
from atoll.platform.sweeps.sweep_plan import Sweep, Trial, load_sweep

BASE = """
[run]
name = "small"
[data]
dataset = "rotated-digits"
clients = 3
options = { angles = [0, 30, 60, 90] }
partition = { name = "domain" }
[model]
name = "linear"
"""


def planned(tmp_path: Path, sweep: str, *overrides: str) -> Sweep:
    path = tmp_path / "sweep.toml"
    path.write_text(BASE + sweep)
    return load_sweep(path, overrides)


def test_a_grid_is_every_combination_in_the_files_order(tmp_path: Path) -> None:
    trials = planned(
        tmp_path,
        '[sweep.grid]\nrun.seed = [3, 1]\n"strategy.name" = ["FedAvg", "FedAdam"]\n'
        '"client.learning_rate" = [0.1]\n',
    ).trials
    assert [(t.method, t.seed) for t in trials] == [
        *(("FedAvg", 3), ("FedAdam", 3), ("FedAvg", 1), ("FedAdam", 1)),
    ]
    assert {t.choices for t in trials} == {(("client.learning_rate", 0.1),)}
    assert all(t.experiment.client.learning_rate == 0.1 for t in trials)
    assert str(trials[0]) == "FedAvg, client.learning_rate = 0.1, seed 3"


def test_variants_go_over_the_base_and_have_grids_of_their_own(tmp_path: Path) -> None:
    trials = planned(
        tmp_path,
        "[strategy]\nfraction_train = 0.5\n[sweep.grid]\nrun.seed = [0, 1]\n"
        "[sweep.variants.plain]\n"
        '[sweep.variants.adam.strategy]\nname = "FedAdam"\n'
        "[sweep.variants.adam.grid]\nstrategy.eta = [0.1, 0.01]\n",
    ).trials
    assert [(t.method, t.seed, dict(t.choices)) for t in trials] == [
        ("plain", 0, {}),
        ("plain", 1, {}),
        *(("adam", seed, {"strategy.eta": eta}) for seed in (0, 1) for eta in (0.1, 0.01)),
    ]
    adam = trials[-1].experiment.strategy
    assert (adam.name, adam.arguments) == ("FedAdam", {"fraction_train": 0.5, "eta": 0.01})


def test_each_domain_is_held_out_in_turn_and_pairs_serve_leave_one_domain_out(
    tmp_path: Path,
) -> None:
    sweep = '[sweep]\nleave_one_domain_out = true\n[sweep.grid]\n"data.held_out" = "each"\n'
    trials = planned(tmp_path, sweep).trials
    reported = [t.held_out for t in trials if not t.is_validation]
    assert reported == [("0",), ("30",), ("60",), ("90",)]
    pairs = [t.held_out for t in trials if t.is_validation]
    # The pair (0, 30) is the same run for the targets 0 and 30.
    assert len(pairs) == len(set(pairs)) == 6
    assert set(pairs) == {(a, b) for (a,) in reported for (b,) in reported if a < b}


def test_a_trials_key_is_of_what_its_results_depend_on() -> None:
    def key(**sections: dict[str, object]) -> str:
        return Trial("x", (), Experiment.from_dict(sections)).key

    same = [
        key(),
        key(run={"name": "other", "out": "there", "checkpoint_every": 1}),
        key(ray={"workers": 3}, log={"progress": False}),
    ]
    assert len(set(same)) == 1
    different = [key(run={"seed": 1}), key(data={"held_out": ["a"]}), key(ray={"chunk_size": 3})]
    assert len({same[0], *different}) == 4
    assert key(data={"held_out": ["a", "b"]}) == key(data={"held_out": ["b", "a"]})


@given(st.lists(st.sampled_from("abc"), unique=True), st.integers(0, 5), st.booleans())
@settings(max_examples=30)
def test_a_trials_configuration_survives_the_way_to_its_process(
    held_out: list[str], seed: int, adam: bool
) -> None:
    tables = {
        "run": {"seed": seed},
        "data": {"held_out": held_out, "options": {"a": [1, 2]}},
        "strategy": {"name": "FedAdam", "eta": 0.5} if adam else {},
    }
    experiment = Experiment.from_dict(tables)
    again = Experiment.from_dict(experiment.to_dict())
    assert again == experiment
    assert Trial("x", (), again).key == Trial("x", (), experiment).key


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("", "has no section [sweep]; expected one with a grid, random or variants"),
        ("[sweep]\ngrd = 1\n", "sweep.grd = 1: no such key; did you mean 'grid'?"),
        ("[sweep]\nparallel = 0\n", "sweep.parallel = 0: expected 'auto' or greater than 0"),
        ("[sweep.grid]\nseed = [1]\n", "sweep.grid.seed: expected an experiment's key"),
        ("[sweep.grid]\nclint.x = [1]\n", "sweep.grid.clint.x: expected an experiment's key"),
        ("[sweep.grid]\nrun.seed = 3\n", "sweep.grid.run.seed = 3: expected a list of values"),
        ("[sweep.grid]\nrun.seed = []\n", "sweep.grid.run.seed = []: expected a list of values"),
        ("[sweep.grid]\nrun.seed = [1, 2, 1]\n", "has 1 twice; expected each value once"),
        (
            "[sweep.grid]\nrun.seed = [1, -2]\n",
            "run.seed = -2: expected greater than or equal to 0 (the trial with run.seed = -2)",
        ),
        (
            '[sweep.grid]\nstrategy.name = ["FedAvg", "FedAvgg"]\n',
            "strategy.name = 'FedAvgg': no such strategy; did you mean 'FedAvg'? (the trial with "
            "strategy.name = FedAvgg)",
        ),
        (
            '[sweep.grid]\nstrategy.name = ["FedAvg"]\n[sweep.variants.x]\n',
            "sweep.grid.strategy.name: there are sweep.variants too",
        ),
        ("[sweep.variants.x.clint]\na = 1\n", "sweep.variants.x.clint = {'a': 1}: expected sect"),
        ("[sweep.variants.x]\ngrid = 3\n", "sweep.variants.x.grid = 3: expected lists of values"),
        ("[sweep]\nleave_one_domain_out = true\n", "and holds out none; expected a held-out"),
        (
            '[sweep]\nleave_one_domain_out = true\n[sweep.grid]\ndata.held_out = [["0", "30"]]\n',
            "trains on 2 domains; expected a held-out domain and at least 3 to train on",
        ),
        (
            '[sweep.grid]\ndata.held_out = [["0"], ["31"]]\n',
            "data.held_out = '31': rotated-digits has no such domain; did you mean",
        ),
        (
            '[sweep.grid]\ndata.held_out = "each"\n'
            'data.partition = [{ name = "domain", clients_per_domain = { "0" = 2, "30" = 2 } }]\n',
            "gives clients the domain '0', which data.held_out keeps from them",
        ),
        (
            '[sweep.grid]\ndata.held_out = "each"\ndata.dataset = ["digits"]\n',
            "data.options.angles",
        ),
        ("[sweep]\nsamples = 3\n", "sweep.samples = 3: there is no sweep.random"),
        ("[sweep.random]\nclient.epochs = [1]\n", "sweep.samples is not set"),
        (
            "[sweep]\nsamples = 60000\n[sweep.random]\nclient.epochs = [1]\n"
            "[sweep.grid]\nrun.seed = [0, 1]\n",
            "sweep.grid and sweep.samples: they make 120000 trials; expected at most 100000",
        ),
        (
            "[sweep]\nsamples = 1\n[sweep.random]\nrun.seed = [1]\n",
            "sweep.random.run.seed: is nothing to draw at random; expected it in a grid",
        ),
        (
            "[sweep]\nsamples = 1\n[sweep.random]\nclient.epochs = [1]\n[sweep.grid]\n"
            "client.epochs = [2]\n",
            "sweep.random.client.epochs: is in a grid too",
        ),
        ("[sweep]\nsamples = 1\n[sweep.random]\nepochs = [1]\n", "sweep.random.epochs: expected"),
        (
            "[sweep]\nsamples = 1\n[sweep.random]\nclient.epochs = 3\n",
            "sweep.random.client.epochs = 3: expected a list of values to choose from",
        ),
        (
            "[sweep]\nsamples = 1\n[sweep.variants.x]\nrandom = 3\n",
            "sweep.variants.x.random = 3: expected distributions by key",
        ),
        (
            '[sweep]\nleave_one_domain_out = true\n[sweep.early_stopping]\nmode = "max"\n'
            '[sweep.grid]\n"data.held_out" = "each"\n',
            "sweep.early_stopping: leave-one-domain-out validation compares whole runs",
        ),
        (
            "[sweep.early_stopping]\nreduction_factor = 1.0\n[sweep.grid]\nrun.seed = [1]\n",
            "sweep.early_stopping.reduction_factor = 1.0: expected greater than 1",
        ),
    ],
)
def test_what_cannot_be_swept_is_a_clear_line(tmp_path: Path, sweep: str, message: str) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        planned(tmp_path, sweep)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_overrides_are_under_the_grid(tmp_path: Path) -> None:
    sweep = planned(tmp_path, "[sweep.grid]\nrun.seed = [1]\n", "run.seed=5", "run.rounds=7")
    [trial] = sweep.trials
    assert (trial.seed, trial.experiment.run.rounds) == (1, 7)


def test_a_sweep_is_not_run_as_an_experiment(tmp_path: Path) -> None:
    planned(tmp_path, "[sweep.grid]\nrun.seed = [1]\n")
    with pytest.raises(InvalidExperimentError, match="expected 'atoll sweep"):
        load_experiment(tmp_path / "sweep.toml")


RANDOM = (
    "[sweep]\nsamples = 3\nsamples_seed = 5\n[sweep.grid]\nrun.seed = [0, 1]\n"
    "[sweep.random]\n"
    'client.learning_rate = { distribution = "log-uniform", low = 0.001, high = 1.0 }\n'
    '"client.batch_size" = [8, 16]\n'
)


def test_every_combination_of_the_grid_is_run_with_each_sample(tmp_path: Path) -> None:
    trials = planned(tmp_path, RANDOM).trials
    assert [t.seed for t in trials] == [0, 1] * 3
    for first, second in zip(trials[::2], trials[1::2], strict=True):
        assert first.choices == second.choices
        chosen = dict(first.choices)
        assert first.experiment.client.learning_rate == chosen["client.learning_rate"]
        assert first.experiment.client.batch_size == chosen["client.batch_size"]
    more = planned(tmp_path, RANDOM, "sweep.samples=5").trials
    assert [t.key for t in more[:6]] == [t.key for t in trials]
    assert len({t.key for t in more}) == 10


def test_a_variant_draws_its_own_hyperparameters_and_shares_the_others(tmp_path: Path) -> None:
    sweep = RANDOM + (
        "[sweep.variants.plain]\n[sweep.variants.prox.random]\n"
        'client.proximal_mu = { distribution = "uniform", low = 0.0, high = 1.0 }\n'
    )
    plain, prox = (
        [t for t in planned(tmp_path, sweep).trials if t.method == m] for m in ("plain", "prox")
    )
    assert [dict(t.choices).get("client.proximal_mu") for t in plain] == [None] * 6
    assert all(0 < t.experiment.client.proximal_mu < 1 for t in prox)
    rates = [[t.experiment.client.learning_rate for t in some] for some in (plain, prox)]
    assert rates[0] == rates[1]
