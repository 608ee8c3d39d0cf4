"""Passwords and tokens in URIs stay out of what is written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from atoll.credentials import (
    HidingFormatter,
    tables_without_credentials,
    without_credentials,
)
from atoll.errors import InvalidExperimentError
from atoll.platform.cli.submission import Submission
from atoll.platform.config.experiment import Experiment
from atoll.platform.reports.run_report import write_report
from atoll.platform.run_directory.run_lock import RunLock
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import Start, _Listeners, _session
from atoll.platform.sweeps import sweep as sweep_module
from atoll.platform.sweeps.sweep_plan import load_sweep

SECRET = "s3cr3t"
URI = f"https://user:{SECRET}@mlflow.example:5000/path?access_token={SECRET}&page=2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pw@host:5000/x", "http://host:5000/x"),
        ("http://token@host", "http://host"),
        ("http://us%40er:p%3Aw@host", "http://host"),
        ("http://user:p@ss@host/a@b", "http://host/a@b"),
        ("http://host/?api_key=abc&page=2#x", "http://host/?api_key=***&page=2#x"),
        ("s3://b/x?X-Amz-Signature=abc", "s3://b/x?X-Amz-Signature=***"),
        (
            "failed: http://u:p@host/a (see https://q:r@other)",
            "failed: http://host/a (see https://other)",
        ),
        ("postgresql+psycopg2://me:pw@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("http://host/a@b?page=2", "http://host/a@b?page=2"),
        ("mail me@host", "mail me@host"),
        ("package.module:attribute", "package.module:attribute"),
    ],
)
def test_what_is_hidden_and_what_stays(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert without_credentials(shown) == shown


PART = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=5, max_size=12)


@given(PART, PART, st.text(max_size=20), st.text(max_size=20))
def test_no_password_is_left_wherever_the_uri_stands(
    user: str, password: str, before: str, after: str
) -> None:
    text = f"{before} http://{user}:Z{password}Z@host/ {after}"
    assert f"Z{password}Z@" not in without_credentials(text)


def tables(**more: Any) -> dict[str, Any]:
    return {
        "run": {"rounds": 1, "name": "secret"},
        "data": {"dataset": "digits", "clients": 2},
        "model": {"name": "linear"},
        "log": {"mlflow": URI},
        **more,
    }


def assert_clean(folder: Path) -> int:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    return len(files)


def test_a_run_directory_and_its_report_have_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atoll.platform.runs import federation_run

    monkeypatch.setattr(federation_run, "observers_of", lambda *arguments: [])
    experiment = Experiment.from_dict(tables())
    assert experiment.log.mlflow == URI
    federation = prepare(experiment)
    lock = RunLock(tmp_path / "run")
    lock.acquire()
    with _session(experiment, federation, lock, Start.NEW, _Listeners.of(None, [])):
        write_report(tmp_path / "run")
    assert "mlflow.example:5000/path" in (tmp_path / "run" / "config.toml").read_text()
    assert "mlflow.example:5000/path" in (tmp_path / "run" / "report.html").read_text()
    assert assert_clean(tmp_path) >= 3


def test_a_sweep_directory_has_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sweep.toml"
    grid = {"log.mlflow": [URI, f"{URI}&x=1"]}
    file.write_text(tomli_w.dumps(tables(sweep={"grid": grid})))
    planned = load_sweep(file)
    # What a trial is given has them: it is to reach the server.
    assert planned.trials[0].experiment.log.mlflow == URI
    monkeypatch.setattr(sweep_module, "_run_missing", lambda *arguments: {})
    sweep_module.run_sweep(planned, tmp_path / "out")
    assert "mlflow.example:5000/path" in (tmp_path / "out" / "sweep.toml").read_text()
    assert assert_clean(tmp_path / "out") >= 3


def test_a_jobs_command_is_not_given_a_password(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(tomli_w.dumps({"data": {"dataset": "digits"}}))
    job = Submission(
        file, out=Path("/shared/run"), overrides=[f"log.mlflow={URI}"], working_dir=tmp_path
    )
    with pytest.raises(InvalidExperimentError, match="has a password or a token") as error:
        job.entrypoint()
    assert SECRET not in str(error.value)


def test_logs_and_mlflows_own_errors_have_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = logging.LogRecord("atoll", logging.INFO, "", 0, "to %s", (URI,), None)
    assert SECRET not in HidingFormatter("%(message)s").format(record)
    pytest.importorskip("mlflow")
    from atoll.errors import AtollError
    from atoll.platform.callbacks.mlflow_log import MLflowLog

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://user:{SECRET}@127.0.0.1:1"
    with pytest.raises(AtollError, match="MLFLOW_TRACKING_PASSWORD") as error:
        MLflowLog(tmp_path, uri, tables())
    assert SECRET not in str(error.value)


def test_tables_keep_their_shape() -> None:
    value = {"a": [URI, 1], "b": {"c": (URI, None)}, "d": True}
    found = tables_without_credentials(value)
    assert SECRET not in repr(found)
    assert found["a"][1:] == [1]
    assert found["b"]["c"][1:] == (None,)
    assert found["d"] is True
