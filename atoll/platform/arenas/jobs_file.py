"""``jobs.json`` of an arena: what its report needs before the arena has ended.

It is written when the federations of a seed have ended, and again at the arena's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from atoll.attacks.arena.arena_job import Conditions, Job
from atoll.files.manifests import read_verified
from atoll.files.reading import Line, parse_json
from atoll.files.recorded import write_recorded_json
from atoll.platform.reports.arena.facts import ArenaFacts, Privacy

JOBS_FILE = "jobs.json"


class RecordedJob(BaseModel):
    """An attack's key, and its columns beside the result."""

    model_config = ConfigDict(strict=True)

    key: Line
    labels: dict[str, str | int | float | bool | None]


class _Spent(BaseModel):
    model_config = ConfigDict(strict=True)

    setting: Line
    defense: Line
    epsilon: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(ge=0, le=1)] | None


class _Schema(BaseModel):
    """The file; those of earlier releases have the jobs alone."""

    model_config = ConfigDict(strict=True)

    jobs: list[RecordedJob]
    privacy: list[_Spent] = []
    classes: Annotated[int, Field(ge=1)] | None = None
    versions: dict[Line, Line] = {}
    failed: dict[Line, str] = {}
    federations_left: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class ArenaJobs:
    """An arena's attacks, and what its report says beside their rows.

    Attributes
    ----------
    jobs : Sequence[RecordedJob]
        The attacks; none before federations have ended.
    facts : ArenaFacts
        What the report says beside, but for the number of attacks that are left.
    """

    jobs: Sequence[RecordedJob]
    facts: ArenaFacts


def write_jobs(
    directory: Path, jobs: Sequence[Job], conditions: Conditions, facts: ArenaFacts
) -> None:
    """Write what the attacks are and what is known beside them, for whoever watches.

    Parameters
    ----------
    directory : Path
        The arena directory.
    jobs : Sequence[Job]
        The attacks.
    conditions : Conditions
        What they share; their keys depend on it.
    facts : ArenaFacts
        What the report says beside their rows; its tables are in ``arena.toml``.
    """
    told = [{"key": job.key(conditions), "labels": dict(job.labels)} for job in jobs]
    privacy = [
        {"setting": setting, "defense": defense, **asdict(spent)}
        for (setting, defense), spent in facts.privacy.items()
    ]
    tables = {
        "jobs": told,
        "privacy": privacy,
        "classes": facts.classes,
        "versions": dict(facts.versions),
        "failed": dict(facts.failed),
        "federations_left": facts.federations_left,
    }
    write_recorded_json(directory / JOBS_FILE, tables)


def read_jobs(directory: Path, tables: Mapping[str, Any]) -> ArenaJobs:
    """Return an arena's attacks and facts as far as they are known yet.

    Parameters
    ----------
    directory : Path
        The arena directory.
    tables : Mapping
        Its ``arena.toml``.

    Raises
    ------
    RunDirectoryError
        If the file cannot be read.
    """
    path = directory / JOBS_FILE
    if not path.exists():
        return ArenaJobs((), ArenaFacts(tables))
    found = parse_json(read_verified(path), str(path), _Schema, finite=False)
    privacy = {
        (each.setting, each.defense): Privacy(each.epsilon, each.delta) for each in found.privacy
    }
    facts = ArenaFacts(
        tables, privacy, found.classes, found.versions, found.failed, found.federations_left
    )
    return ArenaJobs(found.jobs, facts)
