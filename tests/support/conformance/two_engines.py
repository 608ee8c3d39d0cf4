"""Running the same app directories on stock Flower and on Atoll, and what each of them showed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
# Another interpreter for stock's side: an environment with another Flower.
STOCK_PYTHON = os.environ.get("ATOLL_CONFORMANCE_STOCK_PYTHON", sys.executable)
START_SECONDS = 240.0
# On a busy machine Ray may not start within the half minute that it allows itself.
STARTS = 3
HUNG = -1

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.2.3"
license = {{ text = "Apache-2.0" }}
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "conformance"

[tool.flwr.app.components]
serverapp = "{module}:server"
clientapp = "{module}:client"

[tool.flwr.app.config]
{config}
"""


@dataclass(frozen=True)
class Case:
    """An app and how it is run.

    Attributes
    ----------
    name : str
        ``apps/NAME.py`` is a module with ``server`` and ``client``; a folder is an app as it is.
    app : str
        The file or folder below ``apps``, where it is not named as the case.
    nodes : int
        Simulated nodes.
    config : dict
        The app's run config in its ``pyproject.toml``.
    run_config : tuple[str, ...]
        Overrides, as ``flwr run --run-config`` takes them.
    workers : int
        Atoll's workers.
    at_once : int
        How many messages stock works on at once, 1 or 2.
    flower_log : bool
        Whether what Flower itself logs is compared too.
    atoll_options : tuple[str, ...]
        Further options of ``atoll flower``.
    seconds : float
        How long the app may take on either engine before it counts as hung.
    stock_code : int
        The exit code that stock is known to end with.
    atoll_code : int or None
        The exit code wanted of Atoll where it differs from stock's, on purpose.
    """

    name: str
    app: str = ""
    nodes: int = 3
    config: dict[str, Any] = field(default_factory=dict)
    run_config: tuple[str, ...] = ()
    workers: int = 1
    at_once: int = 1
    flower_log: bool = True
    atoll_options: tuple[str, ...] = ()
    seconds: float = 150.0
    stock_code: int = 0
    atoll_code: int | None = None


@dataclass(frozen=True)
class Shown:
    """What an app showed on one engine: its exit code (``HUNG``), both streams, its seconds."""

    code: int
    stdout: str
    stderr: str
    seconds: float


def app_directory(case: Case, folder: Path) -> Path:
    """Write the app of a case as a Flower app directory of its own, and return it."""
    directory, source = folder / case.name, case.app or case.name
    if (APPS / source).is_dir():
        shutil.copytree(APPS / source, directory)
        return directory
    directory.mkdir(parents=True)
    module = f"conf_{case.name}"
    shutil.copy(APPS / f"{source}.py", directory / f"{module}.py")
    shutil.copy(APPS / "kit.py", directory / "kit.py")
    config = "\n".join(f'"{key}" = {json.dumps(value)}' for key, value in case.config.items())
    name = case.name.replace("_", "-")
    text = PROJECT.format(name=name, module=module, config=config)
    (directory / "pyproject.toml").write_text(text)
    return directory


def run_on_stock(
    cases: Sequence[Case], folder: Path, python: str = STOCK_PYTHON, path: str = ""
) -> dict[str, Shown]:
    """Run the cases on stock Flower's simulation.

    Parameters
    ----------
    cases : Sequence[Case]
        The cases, run in this order.
    folder : Path
        Where apps and outputs go.
    python : str
        The interpreter.
    path : str
        A folder that comes first on its search path: another Flower's.
    """
    return _Engine("stock", python, cases, folder, path).run()


def run_on_atoll(cases: Sequence[Case], folder: Path) -> dict[str, Shown]:
    """Run the cases with ``atoll flower``."""
    return _Engine("atoll", sys.executable, cases, folder).run()


class _Engine:
    """Drives an engine's process; starts another one where an app hangs or kills it."""

    def __init__(
        self, engine: str, python: str, cases: Sequence[Case], folder: Path, path: str = ""
    ) -> None:
        self._engine, self._python, self._path = engine, python, path
        self._folder = folder / engine
        self._cases = {case.name: case for case in cases}
        self._jobs = [self._job(number, case) for number, case in enumerate(cases)]
        self._shown: dict[str, Shown] = {}

    def _job(self, number: int, case: Case) -> dict[str, Any]:
        streams = self._folder / "streams"
        streams.mkdir(parents=True, exist_ok=True)
        return {
            "name": case.name,
            "number": number,
            "app": str(app_directory(case, self._folder / "apps")),
            "nodes": case.nodes,
            "run_config": list(case.run_config),
            "workers": case.workers,
            "at_once": case.at_once,
            "atoll_options": list(case.atoll_options),
            "out": str(self._folder / "runs" / case.name),
            "stdout": str(streams / f"{case.name}.out"),
            "stderr": str(streams / f"{case.name}.err"),
        }

    def run(self) -> dict[str, Shown]:
        attempt = 0
        while waiting := [job for job in self._jobs if job["name"] not in self._shown]:
            attempt += 1
            self._run_process(waiting, attempt)
            if not self._shown and attempt == STARTS:
                raise AssertionError((self._folder / f"process-{attempt}.log").read_text())
        return self._shown

    def _run_process(self, jobs: list[dict[str, Any]], attempt: int) -> None:
        for job in jobs:
            # What an attempt before this one left of an app that it did not end.
            for stream in ("stdout", "stderr"):
                Path(job[stream]).unlink(missing_ok=True)
        plan = self._folder / f"jobs-{attempt}.json"
        plan.write_text(json.dumps(jobs))
        results = self._folder / f"results-{attempt}.jsonl"
        log = (self._folder / f"process-{attempt}.log").open("w")
        process = subprocess.Popen(
            [self._python, HERE / f"{self._engine}_driver.py", plan, results],
            cwd=self._folder,
            env=_environment(self._path),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            self._follow(process, jobs, results)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5.0)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.close()

    def _follow(
        self, process: subprocess.Popen[bytes], jobs: list[dict[str, Any]], results: Path
    ) -> None:
        position, deadline = -1, time.monotonic() + START_SECONDS
        while position < len(jobs):
            ended = process.poll() is not None
            lines = results.read_text().splitlines() if results.exists() else []
            for line in map(json.loads, lines[position + 1 :]):
                position += 1
                if "name" in line:
                    self._keep(line["name"], line["code"], line["s"])
                if position < len(jobs):
                    deadline = time.monotonic() + self._cases[jobs[position]["name"]].seconds
            if position == len(jobs):
                return
            if ended or time.monotonic() > deadline:
                if position >= 0:
                    self._keep(jobs[position]["name"], HUNG, 0.0)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return
            time.sleep(0.1)

    def _keep(self, name: str, code: int, seconds: float) -> None:
        streams = self._folder / "streams"
        out, err = (streams / f"{name}.{end}" for end in ("out", "err"))
        texts = [p.read_text(errors="replace") if p.exists() else "" for p in (out, err)]
        self._shown[name] = Shown(code, *texts, seconds)


def _environment(path: str) -> dict[str, str]:
    folders = [path, str(ROOT), os.environ.get("PYTHONPATH", "")]
    joined = os.pathsep.join(filter(None, folders))
    found = {**os.environ, "PYTHONPATH": joined, "FLWR_TELEMETRY_ENABLED": "0"}
    found.pop("RAY_ADDRESS", None)
    return found
