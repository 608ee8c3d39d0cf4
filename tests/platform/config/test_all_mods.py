from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll.attacks.defenses import DEFENSES
from atoll.clients.mods import find_mods
from atoll.clients.settings import ClientSettings
from atoll.errors import InvalidExperimentError
from atoll.platform.config.client_mods import MODS, with_references
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run


def experiment(*mods: object, model: dict[str, object] | None = None) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 2, "evaluate_every": 2},
            "data": {"dataset": "digits", "clients": 3, "examples_per_client": 40},
            "model": model or {"name": "mlp", "hidden": [8]},
            "client": {"mods": list(mods), "batch_size": 16},
            "strategy": {"fraction_evaluate": 0.0},
            "ray": {"workers": 1},
        }
    )


def test_every_defense_has_a_name_that_clients_need_not_know() -> None:
    assert set(DEFENSES) < set(MODS)
    client = with_references(ClientSettings(mods=("top-k", "message_size_mod")))
    first, second = find_mods(client.mods)
    assert type(first).name == "top-k"
    assert second is MODS["message_size_mod"]
    for name in DEFENSES:
        assert DEFENSES[name].name == name
        assert (DEFENSES[name].__doc__ or "").strip()


def test_entries_with_arguments_survive_toml() -> None:
    given = experiment({"name": "top-k", "pruned": 0.5}, "sign")
    assert Experiment.from_dict(given.to_dict()) == given
    assert 'name = "top-k"' in given.to_toml()
    assert "pruned = 0.5" in given.to_toml()


@pytest.mark.parametrize(
    ("mod", "message"),
    [
        ("topk", "client.mods = 'topk': no such mod; did you mean 'top-k'"),
        ({"name": "top-k", "pruned": 1.5}, "'top-k' with pruned = 1.5: expected less than 1"),
        ({"name": "top-k", "share": 0.5}, "'top-k' with share = 0.5: no such argument"),
        ({"name": "soteria", "acts_on": "update"}, "with acts_on = 'update': expected 'step'"),
    ],
)
def test_wrong_defenses_are_refused_without_data(mod: object, message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        check_settings(experiment(mod))


def test_a_defense_that_needs_what_the_model_lacks_is_refused_before_the_run() -> None:
    with pytest.raises(InvalidExperimentError, match="'precode': the model has no variational"):
        prepare(experiment("precode"))
    batch_norm = {"name": "resnet8", "norm": "batch"}
    with pytest.raises(InvalidExperimentError, match="'dp-sgd': .*BatchNorm"):
        prepare(experiment("dp-sgd", model=batch_norm))


def test_the_epsilon_that_clients_spent_is_in_the_ledger(tmp_path: Path, cluster: None) -> None:
    result = run(experiment("dp-sgd"), out=tmp_path / "run")
    rows = pq.read_table(result.directory / "clients.parquet").to_pylist()
    by_round = {r: {row["epsilon"] for row in rows if row["round"] == r} for r in (1, 2)}
    [first], [second] = by_round.values()
    assert 0.0 < first < second
    rounds = pq.read_table(result.directory / "rounds.parquet").to_pylist()
    assert [row["train_epsilon"] for row in rounds] == pytest.approx([first, second])


def test_secure_aggregation_needs_both_its_parts() -> None:
    with pytest.raises(InvalidExperimentError, match="client.mods has 'secure-aggregation'"):
        check_settings(experiment("secure-aggregation"))
    tables = experiment().to_dict()
    tables["strategy"] = {"name": "SecAggPlus"}
    with pytest.raises(InvalidExperimentError, match="client.mods lacks 'secure-aggregation'"):
        check_settings(Experiment.from_dict(tables))
    tables["client"]["mods"] = ["secure-aggregation"]
    tables["capture"] = {"nodes": [2], "rounds": [1]}
    with pytest.raises(InvalidExperimentError, match=r"capture.nodes = \[2\].* expected 'all'"):
        check_settings(Experiment.from_dict(tables))


def private(where: str, **arguments: object) -> dict[str, object]:
    """Return the table of a DP strategy of Flower's around FedAvg, or another."""
    name = f"DifferentialPrivacy{where}Clipping"
    noise = {"noise_multiplier": 0.1, "num_sampled_clients": 3}
    fixed = {"clipping_norm": 1.0} if "Fixed" in where else {}
    return {"name": name, **noise, **fixed, "strategy": {"name": "FedAvg"}, **arguments}


@pytest.mark.parametrize(
    ("strategy", "mods", "message"),
    [
        (private("ClientSideFixed"), [], "clients must clip .* expected 'fixedclipping_mod'"),
        (private("ClientSideAdaptive"), ["fixedclipping_mod"], "expected 'adaptiveclipping_mod'"),
        (
            private("ServerSideFixed", strategy={"name": "FedBuff"}),
            [],
            r"strategy.strategy.name = 'FedBuff': its clients begin with different models",
        ),
        (
            {"name": "SecAggPlus", "strategy": {"name": "DeadlineFedAvg"}},
            ["secure-aggregation"],
            r"strategy.strategy.name = 'DeadlineFedAvg': its clients begin with different models",
        ),
        (
            {"name": "SecAggPlus", "strategy": private("ServerSideFixed")},
            ["secure-aggregation"],
            "'DifferentialPrivacyServerSideFixedClipping': under SecAggPlus it has the clients'",
        ),
        (
            {
                "name": "SecAggPlus",
                "strategy": private("ClientSideFixed", strategy={"name": "FedMedian"}),
            },
            ["secure-aggregation", "fixedclipping_mod"],
            r"strategy.strategy.strategy.name = 'FedMedian': .* not known to be a weighted mean",
        ),
    ],
)
def test_strategies_around_others_that_would_promise_too_much_are_refused(
    strategy: dict[str, object], mods: list[str], message: str
) -> None:
    tables = {**experiment(*mods).to_dict(), "strategy": strategy}
    with pytest.raises(InvalidExperimentError, match=message):
        check_settings(Experiment.from_dict(tables))


def test_flowers_clipping_mods_need_the_strategy_that_sends_the_norm() -> None:
    """Without it every client would fail, and no round change the model."""
    for mod, name in (
        ("fixedclipping_mod", "DifferentialPrivacyClientSideFixedClipping"),
        ("adaptiveclipping_mod", "DifferentialPrivacyClientSideAdaptiveClipping"),
    ):
        with pytest.raises(InvalidExperimentError, match=f"client.mods has '{mod}'.*'{name}'"):
            check_settings(experiment(mod))


def test_privacy_around_a_strategy_that_asks_for_moments_is_refused() -> None:
    hgp = {"name": "HGP"}
    for where in ("ServerSideFixed", "ServerSideAdaptive"):
        tables = {**experiment().to_dict(), "strategy": private(where, strategy=hgp)}
        with pytest.raises(InvalidExperimentError, match="'HGP' within .* clients send moments"):
            check_settings(Experiment.from_dict(tables))
    check_settings(
        Experiment.from_dict(
            {
                **experiment().to_dict(),
                "strategy": private("ServerSideFixed", strategy={"name": "ERM"}),
            }
        )
    )
    tables = {
        **experiment("secure-aggregation").to_dict(),
        "strategy": {"name": "SecAggPlus", "strategy": hgp},
    }
    with pytest.raises(InvalidExperimentError, match="'secure-aggregation' .*answer unmasked|HGP"):
        check_settings(Experiment.from_dict(tables))


@pytest.mark.parametrize(
    ("strategy", "mods"),
    [
        (private("ClientSideFixed"), ["FixedClipping_mod"]),
        (private("ServerSideAdaptive", strategy={"name": "FedMedian"}), []),
        ({"name": "SecAggPlus", "strategy": {"name": "FedAdam"}}, ["secure-aggregation"]),
        (
            {"name": "SecAggPlus", "strategy": {"name": "FedMedian"}, "reduce": True},
            ["secure-aggregation"],
        ),
    ],
)
def test_strategies_around_others_that_go_together_are_not(
    strategy: dict[str, object], mods: list[str]
) -> None:
    check_settings(Experiment.from_dict({**experiment(*mods).to_dict(), "strategy": strategy}))
