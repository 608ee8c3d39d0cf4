"""Identity of a run: all that its results depend on, kept beside them.

A run directory is continued only as the same run. What identifies the run is written at its start,
as ``identity.json``: the configuration without what changes no result, the data's hash and the
versions. Continuing with another configuration or other data would give bits that no single run
could have come to, so it is refused, with what differs; other versions are warned of.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from atoll.credentials import tables_without_credentials
from atoll.errors import RunDirectoryError
from atoll.files.digests import sha256_of_json
from atoll.files.manifests import check_missing, read_verified
from atoll.files.reading import Sha256, parse_json
from atoll.files.recorded import write_recorded_json

logger = logging.getLogger("atoll")

IDENTITY = "identity.json"
# Among the data: the hash of a model's parameters that do not travel.
FROZEN = "frozen parameters of the model"
# What may differ without a run becoming another: none of it changes a run's results.
IRRELEVANT: Mapping[str, Sequence[str]] = {
    "run": (
        *("name", "out", "tags", "checkpoint_every"),
        *("keep_checkpoints", "keep", "keep_metric", "keep_mode"),
    ),
    # The model that is unlearned is known by its hash, wherever it lies.
    "unlearn": ("run",),
    "ray": ("address", "workers", "cpus_per_worker", "nodes_timeout", "label_selector"),
}
# Keys that earlier runs do not have, with the value that changes nothing.
SINCE: Mapping[str, Mapping[str, Any]] = {"client": {"objective": []}}
MISSING = "not set"
TO_DO = (
    "expected the experiment and the data that it began with (what it began with is in "
    "config.toml), or another directory for a new run"
)


def relevant(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's tables without what its results do not depend on."""
    kept: dict[str, Any] = {}
    for section, table in tables.items():
        if section == "log":
            continue
        names = IRRELEVANT.get(section, ())
        since = SINCE.get(section, {})
        kept[section] = {
            key: value
            for key, value in table.items()
            if key not in names and not (key in since and value == since[key])
        }
    if "gpus_per_worker" in kept.get("ray", {}):
        # A share of a GPU changes nothing, the GPU does: that is an identity's ``ray.device``.
        # The key stays, because trials are named by a hash of what is here.
        kept["ray"]["gpus_per_worker"] = 0.0
    return kept


class _Schema(BaseModel):
    """``identity.json``; ``code`` is empty in earlier runs."""

    model_config = ConfigDict(extra="allow", strict=True)

    config: dict[str, dict[str, Any]]
    data: dict[str, str]
    versions: dict[str, str]
    code: dict[str, str] = {}
    config_sha256: Sha256


@dataclass(frozen=True)
class RunIdentity:
    """Identity of a run.

    Attributes
    ----------
    config : dict
        What its results depend on (:func:`relevant`).
    data : dict[str, str]
        Hashes of its data by name: the data set's name and the SHA-256 of its contents; under
        :data:`FROZEN` that of the model's frozen parameters, where it has any.
    versions : dict[str, str]
        Of Python and the packages that its bits depend on.
    code : dict[str, str]
        SHA-256 of the user's own modules (``source_identity.py``), by name.
    """

    config: dict[str, Any]
    data: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write ``identity.json`` into a run directory."""
        tables = asdict(self)
        tables["config"] = tables_without_credentials(self.config)
        tables["config_sha256"] = sha256_of_json(tables["config"])
        write_recorded_json(directory / IDENTITY, tables)

    @classmethod
    def read(cls, directory: Path) -> RunIdentity | None:
        """Return the identity of a run directory; None if it was made before there were any.

        Raises
        ------
        RunDirectoryError
            If the file cannot be read, or is not what was written.
        """
        path = directory / IDENTITY
        if not path.exists():
            check_missing(path)
            return None
        given = parse_json(read_verified(path), str(path), _Schema)
        found = cls(given.config, given.data, given.versions, given.code)
        if given.config_sha256 != sha256_of_json(found.config):
            raise RunDirectoryError(f"{path}: cannot be read (config_sha256 is of another config)")
        return found

    def check_same(self, directory: Path) -> None:
        """Refuse to continue in ``directory`` if it is of another run than this.

        More or fewer rounds are the same run, unless the learning rate depends on how many there
        are, or the noise of ``[privacy]`` was found for them.

        Raises
        ------
        RunDirectoryError
            If the configuration or the data differ, with a line for each difference.
        """
        before = RunIdentity.read(directory)
        if before is None:
            logger.warning(
                "%s: has no %s, so it cannot be checked that it is the same run",
                directory,
                IDENTITY,
            )
            return
        both = (tables_without_credentials(each.config) for each in (before, self))
        there, here = (_as_json(relevant(tables)) for tables in both)
        if not _depends_on_rounds(here):
            for tables in (there, here):
                tables.get("run", {}).pop("rounds", None)
        found = [f"{key}: {was} there, {now} now" for key, was, now in _differences(there, here)]
        found += [
            f"the data ({name}): SHA-256 {was} there, {now} now"
            for name, was, now in _differences(before.data, self.data)
        ]
        if found:
            lines = [f"{directory}: is of another run: {line}" for line in found]
            raise RunDirectoryError("\n".join([*lines, f"{directory}: {TO_DO}"]))
        for name, was, now in _differences(before.versions, self.versions):
            logger.warning("%s was %s when the run began and is %s now", name, was, now)
        for name in before.changed_code(self.code):
            logger.warning(
                "the module %s was changed after the run began: the result is of no single version",
                name,
            )

    def changed_code(self, now: Mapping[str, str]) -> list[str]:
        """Return the user's modules that have changed since; none if they were not noted then."""
        return [name for name, _, _ in _differences(self.code, now)] if self.code else []


def _as_json(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables as they are after a way through JSON (tuples are lists)."""
    return dict(json.loads(json.dumps(tables)))


def _depends_on_rounds(tables: Mapping[str, Any]) -> bool:
    schedule, privacy = tables.get("client", {}).get("schedule", {}), tables.get("privacy")
    finds_noise = privacy is not None and "noise_multiplier" not in privacy
    return bool(schedule.get("name") == "cosine") or finds_noise


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted keys whose values differ, with both values."""
    for name in dict.fromkeys([*before, *now]):
        was, is_now = before.get(name, MISSING), now.get(name, MISSING)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from _differences(was, is_now, f"{prefix}{name}.")
        elif was != is_now:
            yield f"{prefix}{name}", was, is_now
