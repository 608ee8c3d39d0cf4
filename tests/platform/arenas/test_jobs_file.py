"""What an arena's report needs before its end: written, read, and of earlier releases."""

import json
from pathlib import Path

import pytest

from atoll.attacks.arena.arena_job import Conditions, Job
from atoll.errors import RunDirectoryError
from atoll.platform.arenas.jobs_file import JOBS_FILE, read_jobs, write_jobs
from atoll.platform.reports.arena.facts import ArenaFacts, Privacy

TABLES = {"arena": {"candidates": 50}}
JOB = Job("key", (Path("capture"),), "idlg", {}, "naive", 0, {"defense": "dp-sgd", "accuracy": 0.5})
FACTS = ArenaFacts(
    TABLES,
    {("lenet", "dp-sgd"): Privacy(3.5, 1e-5), ("lenet", "own"): Privacy(float("inf"), None)},
    10,
    {"python": "3.11"},
    {"none, seed 1": "no client\nreplied"},
    federations_left=2,
)


def conditions() -> Conditions:
    return Conditions(Path("data"), candidates=50)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_jobs(tmp_path, [JOB], conditions(), FACTS)
    found = read_jobs(tmp_path, TABLES)
    assert found.facts == FACTS
    assert [(job.key, job.labels) for job in found.jobs] == [(JOB.key(conditions()), JOB.labels)]


def test_before_the_federations_have_ended_only_the_settings_are_known(tmp_path: Path) -> None:
    found = read_jobs(tmp_path, TABLES)
    assert found.jobs == ()
    assert found.facts == ArenaFacts(TABLES)


def test_a_file_of_an_earlier_release_has_the_jobs_alone(tmp_path: Path) -> None:
    jobs = [{"key": "0a", "labels": {"defense": "none"}}]
    (tmp_path / JOBS_FILE).write_text(json.dumps({"jobs": jobs}))
    found = read_jobs(tmp_path, TABLES)
    assert [job.key for job in found.jobs] == ["0a"]
    assert found.facts == ArenaFacts(TABLES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", 0),
        ("versions", {"a": 1}),
        ("privacy", [{"setting": "s", "defense": "d", "epsilon": -1.0, "delta": None}]),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / JOBS_FILE).write_text(json.dumps({"jobs": [], key: value}))
    with pytest.raises(RunDirectoryError, match=f"{JOBS_FILE}.*{key}"):
        read_jobs(tmp_path, {})
