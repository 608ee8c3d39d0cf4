"""Shadow federations: stacked, alone and on the engine; kept on disk; LiRA on one left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.attacks.captures.capture_files import find_captures, read_capture
from atoll.attacks.membership.candidate_signals import losses_after
from atoll.attacks.membership.operating_points import auroc
from atoll.attacks.membership.shadow_scores import (
    confidence,
    likelihood_ratio,
    relative_membership,
)
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.errors import AttackError, RunDirectoryError
from atoll.platform.attack_runs.shadows.alone import run_alone
from atoll.platform.attack_runs.shadows.shadow_attacks import population_of
from atoll.platform.attack_runs.shadows.shadow_runs import Asked, ShadowRuns, run_group
from atoll.platform.attack_runs.shadows.together import run_together
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.sections import CaptureSettings
from atoll.platform.grid.message_capture import CaptureRecorder
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.started_cluster import StartedCluster
from atoll.randomness import seed_everything
from atoll.strategies.privacy.central_dp import CentralDP

pytestmark = pytest.mark.slow

CLIENTS, EACH = 6, 24


def experiment(**sections: dict[str, Any]) -> Experiment:
    tables: dict[str, Any] = {
        "run": {"rounds": 3, "seed": 4},
        "data": {"dataset": "digits", "clients": CLIENTS, "examples_per_client": EACH},
        "model": {"name": "mlp", "hidden": [32]},
        "client": {"batch_size": 7, "learning_rate": 0.1, "epochs": 2, "momentum": 0.5},
        "strategy": {"name": "FedAvg", "fraction_train": 0.5, "fraction_evaluate": 0.5},
        "ray": {"workers": 2},
    }
    for name, section in sections.items():
        tables[name] = {**tables.get(name, {}), **section}
    return Experiment.from_dict(tables)


def asked_of(given: Experiment, node: int, rounds: tuple[int, ...], candidates: int) -> Asked:
    """Return a client's first examples, and the first of the test split."""
    members = prepare(given).partition.indices(node - 1)[:candidates]
    return Asked(node, rounds, members, np.arange(candidates))


@pytest.fixture
def runs(tmp_path: Path) -> ShadowRuns:
    return made(tmp_path, experiment())


def made(folder: Path, given: Experiment, seed: int = 0) -> ShadowRuns:
    asked = [asked_of(given, node, (1, 2, 3), 12) for node in (1, 3)]
    found = ShadowRuns(folder, given, asked, seed)
    found.write_dataset_of_all()
    return found


def compared(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert one.keys() == other.keys()
    assert one
    for key, losses in one.items():
        assert losses == pytest.approx(other[key], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "strategy", [{"name": "FedAvg"}, {"name": "FedAdam", "eta": 0.01}, {"name": "FedProx"}]
)
def test_stacked_federations_are_those_that_run_alone(
    strategy: dict[str, Any], tmp_path: Path
) -> None:
    given = experiment(strategy={**strategy, "fraction_evaluate": 0.3})
    runs = made(tmp_path, given)
    assert runs.obstacle is None
    together = run_together(runs.plan, range(4), tmp_path / "together")
    for number, found in enumerate(together):
        # Cohorts are those of the run's seed, whatever else is drawn.
        assert set(found) == together[0].keys()
        compared(found, run_alone(runs.plan, number, tmp_path / "alone"))
    first, second = (next(iter(found.values())) for found in together[:2])
    assert not np.allclose(first, second)


def test_a_federation_alone_is_the_engines(runs: ShadowRuns, tmp_path: Path, cluster: None) -> None:
    given, plan = experiment(), runs.plan
    spec = plan.spec_of(1, tmp_path / "partition")
    changed = dataclasses.replace(
        prepare(given),
        spec=spec,
        partition=Partition(spec.partition),
        dataset=Dataset(spec.dataset),
    )
    found = run_alone(plan, 1, tmp_path / "alone")
    settings = CaptureSettings(nodes=(1, 3), rounds=(1, 2, 3))
    with StartedCluster(given) as started, started.grid(changed, "shadow") as grid:
        grid.record_with(CaptureRecorder(tmp_path, settings, spec, changed.dataset))
        seed_everything(plan.server_seed)
        options = RoundOptions(checkpoint_every=None)
        run_rounds(changed.strategy, grid, plan.initial, 3, options=options)
    engines = {}
    for path in find_captures(tmp_path):
        capture = read_capture(path)
        target = plan.target_of(capture.node_id - 1)
        places = np.concatenate([target.candidates, plan.population])
        examples = population_of(prepare(given).dataset, places)
        engines[capture.server_round, capture.node_id - 1] = losses_after(capture, examples)
    compared(found, engines)


@pytest.mark.parametrize(
    ("sections", "obstacle"),
    [
        ({"client": {"mods": [{"name": "clipping", "bound": 0.1}]}}, "one client at a time"),
        ({"client": {"vectorize": False}}, "client.vectorize = false"),
        ({"strategy": {"name": "FedMedian"}}, "FedMedian"),
    ],
)
def test_what_cannot_be_stacked_is_run_alone(
    sections: dict[str, Any], obstacle: str, tmp_path: Path
) -> None:
    given = experiment(**sections)
    runs = made(tmp_path, given)
    assert runs.obstacle is not None
    assert obstacle in runs.obstacle
    assert not runs.plan.together
    [found] = run_group(runs.plan, (0,))
    assert found


def test_convolutions_are_not_stacked_on_a_processor(tmp_path: Path) -> None:
    given = experiment()
    model = given.model.model_validate({"name": "lenet"})
    obstacle = made(tmp_path, given.model_copy(update={"model": model})).obstacle
    assert obstacle == "on a processor, stacks of other layers than linear ones are no faster"


def _with_the_runs_noise(strategy: CentralDP, name: str, value: object) -> None:
    object.__setattr__(strategy, name, strategy.seed if name == "noise_seed" else value)


def test_noise_of_the_server_is_not_the_victims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    privacy = {"epsilon": 8.0, "delta": 1e-3}
    given = experiment(privacy=privacy, strategy={"fraction_train": 1.0})
    runs = made(tmp_path, given)
    first = run_alone(runs.plan, 0, tmp_path / "first")
    again = run_alone(runs.plan, 0, tmp_path / "again")
    assert all(np.array_equal(first[key], again[key]) for key in first)
    # With the noise of the run's own seed the same federation ends elsewhere.
    monkeypatch.setattr(CentralDP, "__setattr__", _with_the_runs_noise)
    known = run_alone(runs.plan, 0, tmp_path / "known")
    assert not np.allclose(first[3, 0], known[3, 0])


def test_federations_without_rounds_of_clients_are_refused(tmp_path: Path) -> None:
    given = experiment()
    asked = asked_of(given, 1, (1,), 4)
    strategy = given.strategy.model_validate({"name": "FedBuff"})
    asynchronous = given.model_copy(update={"strategy": strategy})
    with pytest.raises(AttackError, match="--shadows: FedBuff waits for no reply"):
        ShadowRuns(tmp_path, asynchronous, [asked], 0)


def test_too_few_examples_for_a_pool_are_refused(tmp_path: Path) -> None:
    given = experiment(data={"examples_per_client": None, "clients": 4})
    asked = asked_of(given, 1, (1,), 359)
    with pytest.raises(AttackError, match="leaves 1 examples of digits; expected at least 4"):
        ShadowRuns(tmp_path, given, [asked], 0)


def test_lira_finds_members_of_an_overfitted_federation_and_nobody_else(tmp_path: Path) -> None:
    given = experiment(
        client={"epochs": 12, "momentum": 0.9}, strategy={"fraction_train": 1.0}, run={"rounds": 2}
    )
    asked = [asked_of(given, node, (2,), EACH) for node in (1, 2, 3, 4)]
    runs = ShadowRuns(tmp_path, given, asked, 0)
    runs.write_dataset_of_all()
    numbers = range(16)
    found = [
        losses
        for start in (0, 8)
        for losses in run_group(runs.plan, tuple(numbers[start : start + 8]))
    ]
    members, others = ([], [])  # type: list[float], list[float]
    controls = ([], [])  # type: tuple[list[float], list[float]]
    of_rmia = ([], [])  # type: tuple[list[float], list[float]]
    for each in asked:
        client, count = each.node_id - 1, 2 * EACH
        target = runs.plan.target_of(client)
        included = np.stack([runs.plan.design.included(number, target) for number in numbers])
        losses = np.stack([found[number][2, client] for number in numbers])
        # The first federation is the victim of the others, but for its complement.
        kept, is_in = np.arange(2, 16), included[0]
        values = confidence(losses[:, :count])
        scores = likelihood_ratio(values[0], values[kept], included[kept])
        members += scores[is_in].tolist()
        others += scores[~is_in].tolist()
        half = np.arange(int((~is_in).sum())) % 2 == 0
        controls[0].extend(scores[~is_in][half].tolist())
        controls[1].extend(scores[~is_in][~half].tolist())
        p = np.exp(-losses)
        relative = relative_membership(
            p[0, :count], p[kept, :count], included[kept], p[0, count:], p[kept, count:]
        )
        of_rmia[0].extend(relative[is_in].tolist())
        of_rmia[1].extend(relative[~is_in].tolist())
    assert auroc(members, others).low > 0.6
    assert auroc(*of_rmia).low > 0.6
    nobody = auroc(*controls)
    assert nobody.low < 0.5 < nobody.high


@pytest.mark.long
def test_finished_federations_are_read_and_not_run_again(tmp_path: Path, cluster: None) -> None:
    runs = made(tmp_path, experiment(strategy={"fraction_train": 1.0}))
    told: list[tuple[int, int]] = []
    runs.run(10, lambda done, of: told.append((done, of)))
    assert told == [(0, 16), (8, 16), (16, 16)]
    before = runs.losses(3, 10)
    assert before.candidates.shape == (10, 3, 24)
    assert before.included.shape == (10, 24)
    written = {path: path.stat().st_mtime_ns for path in runs.directory.glob("*.safetensors")}
    assert len(written) == 16
    lost = runs.directory / "shadow-0009.safetensors"
    lost.unlink()
    # On another number of workers, after an interruption.
    single = experiment(strategy={"fraction_train": 1.0}, ray={"workers": 1})
    again = made(tmp_path, single)
    assert again.directory == runs.directory
    again.run(10, lambda done, of: told.append((done, of)))
    assert told[3:] == [(8, 16), (16, 16)]
    first = runs.directory / "shadow-0000.safetensors"
    assert first.stat().st_mtime_ns == written[first]
    after = again.losses(3, 10)
    assert np.array_equal(before.candidates, after.candidates)
    assert np.array_equal(before.population, after.population)
    again.run(10, lambda done, of: told.append((done, of)))
    assert told[5:] == [(16, 16)]
    lost.write_bytes(b"something else")
    with pytest.raises(RunDirectoryError, match="shadow-0009.safetensors: is not a shadow"):
        again.losses(3, 10)
    assert made(tmp_path, single, seed=1).directory != runs.directory
