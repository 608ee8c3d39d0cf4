"""``atoll audit`` and ``atoll membership`` on a real run, and what ``[audit]`` refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atoll.attacks.audits.canary_clients import is_included
from atoll.attacks.defenses.base.privacy_accounting import gaussian_epsilon
from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.attack_runs.audit_run import AuditResult, example_scores, run_audit
from atoll.platform.attack_runs.membership_run import run_membership
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.privacy.canaries import CANARY_EXAMPLES
from atoll.platform.config.sections import CaptureSettings
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare
from atoll.privacy.one_run import audit_scores
from tests.support.attacks.captured_run import captured_run


def tables(**sections: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": {"rounds": 2},
        "data": {"dataset": "digits", "clients": 40},
        "model": {"name": "mlp", "hidden": [32]},
        "client": {"batch_size": 16, "learning_rate": 0.1, "epochs": 3},
        "strategy": {"name": "FedAvg", "fraction_train": 1.0, "fraction_evaluate": 0.0},
        "ray": {"workers": 1},
        **sections,
    }


def private(**audit: Any) -> dict[str, Any]:
    privacy = {"epsilon": 30.0, "delta": 1e-3, "sampling": "poisson"}
    return tables(privacy=privacy, audit={"canaries": 30, **audit})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audit": {"canaries": 40}}, "audit.canaries = 40: there are data.clients = 40"),
        ({"audit": {"canaries": 4}}, "audit.norm is not set: without .privacy. there is no"),
    ],
)
def test_what_cannot_be_audited_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        check_settings(Experiment.from_dict(tables(**changes)))


def test_an_experiment_without_canaries_is_no_audit() -> None:
    with pytest.raises(InvalidExperimentError, match=r"expected \[audit\] with canaries"):
        run_audit(Experiment.from_dict(tables()))


def test_canaries_are_the_last_clients_and_the_innermost_mod() -> None:
    given = Experiment.from_dict(private())
    mods = prepare(given).spec.client.mods
    assert mods[-1].arguments == {"first": 11, "norm": 10.0, "seed": 0}  # type: ignore[union-attr]
    assert not given.client.mods


def test_a_claim_below_the_bound_is_refuted() -> None:
    figures = (1.0, 1e-5, 2.0, 0.95, 2.0, 10, 5, 10, 10)
    assert AuditResult(Path(), *figures).is_refuted
    assert not AuditResult(Path(), 3.0, *figures[1:]).is_refuted
    assert not AuditResult(Path(), None, *figures[1:]).is_refuted


def test_a_run_is_audited_and_its_members_are_found(tmp_path: Path, cluster: None) -> None:
    captured = {"capture": {"nodes": [1, 2, 3, 4, 40], "rounds": [1, 2]}}
    found = run_audit(Experiment.from_dict(private() | captured), out=tmp_path / "run")
    assert found.claim is not None
    assert 0.0 < found.bound <= found.claim <= 30.0
    assert not found.is_refuted
    kept = json.loads((found.directory / "audit.json").read_text())
    assert kept["bound"] == found.bound
    assert kept["canaries"] == 30
    members = run_membership(found.directory, candidates=30)
    rows = pq.read_table(members.directory / "membership.parquet").to_pylist()
    assert {row["node_id"] for row in rows} == {1, 2, 3, 4, 40}
    assert sum(row["member"] for row in rows) == len(rows) // 2
    assert {"loss", "loss drop", "gradient norm", "cosine", "FedMIA"} == set(members.methods)
    # A client's own update points to its examples; a canary's is a random direction.
    pooled = [members.figures("cosine", node)["AUROC"].value for node in (1, 2, 3, 4)]
    assert sum(pooled) / 4 > 0.6
    assert "node" in members.table().header


def with_canary_examples(noise: float, **audit: Any) -> Experiment:
    """An experiment whose last client has canary examples under DP-SGD with that noise."""
    return Experiment.from_dict(
        {
            "run": {"rounds": 3, "seed": 1},
            "data": {"dataset": "digits", "clients": 2, "examples_per_client": 120},
            "model": {"name": "mlp", "hidden": [64]},
            "client": {"batch_size": 30, "learning_rate": 0.1, "epochs": 1},
            "strategy": {"name": "FedAvg", "fraction_train": 1.0, "fraction_evaluate": 0.0},
            "privacy": {
                "epsilon": 1000.0,
                "delta": 1e-5,
                "level": "example",
                "noise_multiplier": noise,
            },
            "audit": {"canaries": 120, **audit},
        }
    )


@pytest.mark.parametrize(("share", "is_refuted"), [(1.0, False), (0.1, True)])
def test_canary_examples_refute_dp_sgd_with_too_little_noise(
    share: float, is_refuted: bool, tmp_path: Path
) -> None:
    claim = gaussian_epsilon(4.0, 3, 1e-5)
    given = with_canary_examples(4.0 * share)
    run = captured_run(given, tmp_path / "run")
    for path in (run / "captures").glob("*node-000001*"):
        shutil.rmtree(path)
    scores = example_scores(run, range(120), seed=1)
    coins = [is_included(1, place) for place in range(120)]
    found = audit_scores(scores, coins, 1e-5, 0.95)
    assert (found.epsilon > claim) is is_refuted


def test_canary_examples_need_dp_sgd_around_them(tmp_path: Path) -> None:
    tables = with_canary_examples(1.0).to_dict()
    for section in ("privacy", "audit"):
        del tables[section]
    mod = {"name": CANARY_EXAMPLES, "node": 2, "canaries": 5, "norm": 1.0}
    tables["client"]["mods"] = [mod]
    with pytest.raises(EngineError, match="expected dp-sgd around them"):
        captured_run(Experiment.from_dict(tables), tmp_path / "run")


def test_more_canary_examples_than_the_client_has_are_refused() -> None:
    with pytest.raises(InvalidExperimentError, match="node 2 has 120 examples; expected at most"):
        run_audit(with_canary_examples(1.0, canaries=121))
    captured = with_canary_examples(1.0).model_copy(
        update={"capture": CaptureSettings(nodes=(1,), rounds=(1,))}
    )
    with pytest.raises(InvalidExperimentError, match="itself; expected no .capture."):
        run_audit(captured)


@pytest.mark.long
def test_dp_sgd_is_audited_by_its_own_run(tmp_path: Path, cluster: None) -> None:
    found = run_audit(with_canary_examples(4.0), out=tmp_path / "run")
    assert found.claim == pytest.approx(gaussian_epsilon(4.0, 3, 1e-5))
    assert found.bound <= found.claim
    assert found.canaries == 120
    assert not found.is_refuted
