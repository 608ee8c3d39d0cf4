"""An active server against real clients, with and without its ascent, and with DP-SGD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from atoll.attacks import example_victim
from atoll.attacks.membership.active_server import ascended, replied_losses
from atoll.attacks.membership.candidate_signals import Candidates
from atoll.clients.models.model_building import build_model
from atoll.errors import AttackError
from atoll.platform.attack_runs.membership_run import MembershipRun, run_membership
from atoll.platform.cli.application import application
from atoll.platform.config.experiment import Experiment
from tests.support.attacks.captured_run import captured_run


def experiment(**client: Any) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 1, "seed": 2},
            "data": {"dataset": "digits", "clients": 4, "examples_per_client": 30},
            "model": {"name": "mlp", "hidden": [32]},
            "client": {"batch_size": 10, "learning_rate": 0.1, "epochs": 5, **client},
            "strategy": {"name": "FedAvg", "fraction_train": 1.0, "fraction_evaluate": 0.0},
        }
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured_run(experiment(), tmp_path_factory.mktemp("run"))


def attacked(directory: Path, **settings: Any) -> MembershipRun:
    return run_membership(directory, attack=["active"], candidates=30, **settings)


def test_the_model_is_moved_uphill_by_a_share_of_its_norm() -> None:
    victim = example_victim(examples=6)
    capture = victim.capture
    assert victim.truth is not None
    candidates = Candidates(victim.truth.normalized(capture.federation), victim.truth.labels)
    info = capture.federation

    def loss_at(state: dict[str, torch.Tensor]) -> float:
        module = build_model(info.model, info.inputs, info.task, 0)
        module.load_state_dict(state)
        return float(F.cross_entropy(module(candidates.inputs), candidates.labels).detach())

    def distance(state: dict[str, torch.Tensor]) -> float:
        squares = [(state[n] - v).square().sum() for n, v in capture.broadcast.items()]
        return float(torch.stack(squares).sum().sqrt())

    whole = torch.cat([value.flatten() for value in capture.broadcast.values()]).norm()
    losses = [loss_at(ascended(capture, candidates, share)) for share in (0.0, 0.01, 0.1)]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(loss_at(dict(capture.broadcast)))
    one_step = ascended(capture, candidates, 0.1, steps=1)
    assert distance(one_step) == pytest.approx(0.1 * float(whole), rel=1e-4)
    assert distance(ascended(capture, candidates, 0.1)) <= 0.1 * float(whole) * 1.0001
    found = replied_losses(capture, candidates, one_step)
    assert found.shape == (6,)
    assert float(found.mean()) == pytest.approx(loss_at(one_step), rel=1e-4)


def test_an_active_server_finds_members(directory: Path) -> None:
    found = attacked(directory)
    assert found.figures("active server")["AUROC"].low > 0.5
    assert str(found.threat) == "malicious server (chooses the model)"
    assert found.threat_of("loss").name == "eavesdropper"
    assert "malicious server" in found.table().note
    # Without the ascent the client is merely asked once more.
    still = attacked(directory, ascent=0.0)
    assert still.rows[0]["active server"] != found.rows[0]["active server"]
    assert [row["loss"] for row in still.rows] == [row["loss"] for row in found.rows]
    again = attacked(directory)
    assert again.rows == found.rows


@pytest.mark.slow
def test_clients_answer_with_their_mods(tmp_path: Path, directory: Path) -> None:
    noise = {"name": "dp-sgd", "clipping_norm": 0.1, "noise_multiplier": 5.0, "delta": 1e-3}
    hidden = attacked(captured_run(experiment(mods=[noise]), tmp_path / "hidden"))
    plain = attacked(directory)
    name = "active server"
    assert hidden.figures(name)["AUROC"].value < plain.figures(name)["AUROC"].value


def test_clients_with_a_state_are_refused(tmp_path: Path) -> None:
    run = captured_run(experiment(), tmp_path / "run")
    kept = experiment(personal={"name": "fedrep"}, local=["6.*"])
    (run / "config.toml").write_text(kept.to_toml())
    with pytest.raises(AttackError, match="--attack active: clients keep a state"):
        attacked(run)


def test_the_command_prints_figures_and_the_page(directory: Path) -> None:
    given = ["membership", str(directory), "--candidates", "5", "--attack", "active", "--csv"]
    done = CliRunner().invoke(application, given)
    assert done.exit_code == 0, done.output
    assert "active server" in done.stdout
    refused = CliRunner().invoke(application, [*given[:-2], "lyra"])
    assert refused.exit_code != 0
    assert "--attack lyra: expected lira or rmia or active" in refused.output
