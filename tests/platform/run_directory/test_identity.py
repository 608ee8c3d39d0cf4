"""A run is continued only as the same run: what differs is named, unless it changes no result."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atoll.errors import RunDirectoryError
from atoll.platform.config.experiment import Experiment
from atoll.platform.run_directory.identity import IDENTITY, RunIdentity, relevant
from atoll.platform.runs.federation_run import resume, run

DATA = {"digits": "aa"}


def identity(data: dict[str, str] = DATA, **sections: dict[str, Any]) -> RunIdentity:
    return RunIdentity(relevant(Experiment.from_dict(sections).to_dict()), data, {"torch": "1"})


def test_another_configuration_or_other_data_are_refused_with_each_difference(
    tmp_path: Path,
) -> None:
    identity(client={"learning_rate": 0.1}).write(tmp_path)
    other = identity({"digits": "bb"}, client={"learning_rate": 0.2}, strategy={"name": "FedAdam"})
    with pytest.raises(RunDirectoryError) as caught:
        other.check_same(tmp_path)
    lines = [line.removeprefix(f"{tmp_path}: ") for line in str(caught.value).splitlines()]
    assert lines == [
        "is of another run: client.learning_rate: 0.1 there, 0.2 now",
        "is of another run: strategy.name: FedAvg there, FedAdam now",
        "is of another run: the data (digits): SHA-256 aa there, bb now",
        "expected the experiment and the data that it began with (what it began with is in "
        "config.toml), or another directory for a new run",
    ]


def test_what_changes_no_result_may_differ(tmp_path: Path) -> None:
    identity().write(tmp_path)
    identity(
        run={"name": "other", "out": "there", "checkpoint_every": 1, "rounds": 99},
        ray={
            "workers": 3,
            "cpus_per_worker": 0.5,
            "gpus_per_worker": 0.25,
            "label_selector": {"zone": "a"},
        },
        log={"progress": False},
    ).check_same(tmp_path)


def test_a_run_from_before_shares_were_chosen_continues(tmp_path: Path) -> None:
    before = identity()
    before.config["ray"]["gpus_per_worker"] = 0.0
    before.write(tmp_path)
    identity().check_same(tmp_path)


def test_a_run_of_a_gpu_does_not_continue_without_one(tmp_path: Path) -> None:
    on_gpu = identity()
    on_gpu.config["ray"]["device"] = "cuda"
    on_gpu.write(tmp_path)
    on_gpu.check_same(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"ray\.device: cuda there, not set now"):
        identity().check_same(tmp_path)


def test_the_rounds_matter_where_the_learning_rate_depends_on_them(tmp_path: Path) -> None:
    cosine = {"schedule": {"name": "cosine"}}
    identity(run={"rounds": 10}, client=cosine).write(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"run\.rounds: 10 there, 20 now"):
        identity(run={"rounds": 20}, client=cosine).check_same(tmp_path)


def test_other_versions_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RunIdentity({}, {}, {"torch": "2", "ray": "1"}).write(tmp_path)
    with caplog.at_level(logging.WARNING, "atoll"):
        RunIdentity({}, {}, {"torch": "3", "ray": "1"}).check_same(tmp_path)
    assert [r.getMessage() for r in caplog.records] == [
        "torch was 2 when the run began and is 3 now"
    ]


def test_a_file_that_is_no_identity_is_refused(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"config": 3, "data": {}, "versions": {}}'):
        (tmp_path / IDENTITY).write_text(content)
        with pytest.raises(RunDirectoryError, match=r"identity\.json: cannot be read"):
            identity().check_same(tmp_path)
    identity().write(tmp_path)
    edited = (tmp_path / IDENTITY).read_text().replace("0.05", "0.5", 1)
    (tmp_path / IDENTITY).write_text(edited)
    with pytest.raises(RunDirectoryError, match=r"identity\.json: is not what was written"):
        identity().check_same(tmp_path)
    # As it was before there were manifests.
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(RunDirectoryError, match="config_sha256 is of another config"):
        identity().check_same(tmp_path)


def draw_images(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    for number in range(24):
        place = folder / "domain" / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")


@pytest.mark.long
def test_a_run_continues_by_itself_and_never_on_other_data(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_images(tmp_path / "images", 0)
    # Relative to here: the run directory's config.toml must say where that was.
    monkeypatch.chdir(tmp_path)
    tables = {
        "run": {"rounds": 3, "seed": 1, "checkpoint_every": 1},
        "data": {"dataset": "folder", "path": "images", "clients": 2},
        "model": {"name": "linear"},
        "ray": {"workers": 1},
    }
    whole = run(Experiment.from_dict(tables), out=tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(record: Any) -> None:
        if record.server_round == 2:
            raise Killed

    place = tmp_path / "place"
    # What a process leaves that is killed before the run has begun.
    place.mkdir()
    (place / ".lock").touch()
    (place / IDENTITY).write_text("{}")
    experiment = Experiment.from_dict(tables)
    with pytest.raises(Killed):
        run(experiment, out=place, resume=True, callbacks=[kill])
    assert not (place / "result.json").exists()

    other = Experiment.from_dict({**tables, "client": {"batch_size": 3}})
    with pytest.raises(RunDirectoryError, match=r"client\.batch_size: 20 there, 3 now"):
        run(other, out=place, resume=True)
    draw_images(tmp_path / "images", 1)
    for again in (lambda: run(experiment, out=place, resume=True), lambda: resume(place)):
        with pytest.raises(RunDirectoryError, match=r"the data \(folder\): SHA-256 \w+ there"):
            again()
    draw_images(tmp_path / "images", 0)
    seen: list[int] = []
    ended = run(
        experiment, out=place, resume=True, callbacks=[lambda r: seen.append(r.server_round)]
    )
    assert seen == [3]
    assert ended.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    # A finished run is not run again, and still refused to another experiment.
    assert run(experiment, out=place, resume=True).summary == json.loads(
        (place / "result.json").read_text()
    )
    with pytest.raises(RunDirectoryError, match="is of another run"):
        run(other, out=place, resume=True)


def test_a_run_of_before_terms_of_an_objective_is_the_same_run(tmp_path: Path) -> None:
    now = Experiment.from_dict({}).to_dict()
    before = {**now, "client": {k: v for k, v in now["client"].items() if k != "objective"}}
    RunIdentity(before, DATA, {"torch": "1"}).write(tmp_path)
    identity().check_same(tmp_path)
    assert relevant(now) == relevant(before)
    with pytest.raises(RunDirectoryError, match=r"client\.objective: not set there"):
        identity(client={"objective": [{"name": "sam"}]}).check_same(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"client\.local: not set there"):
        identity(client={"local": "head"}).check_same(tmp_path)
