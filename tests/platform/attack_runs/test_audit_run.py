"""``atoll audit`` and ``atoll membership`` on a real run, and what ``[audit]`` refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atoll.errors import InvalidExperimentError
from atoll.platform.attack_runs.audit_run import AuditResult, run_audit
from atoll.platform.attack_runs.membership_run import run_membership
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.preflight import check_settings


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
        (
            {
                "audit": {"canaries": 4},
                "privacy": {"epsilon": 1.0, "delta": 1e-3, "level": "example"},
            },
            "audit: its canaries are clients, and privacy.level = 'example'",
        ),
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
