"""``atoll submit``: a run or a sweep as a Ray job, with the working directory sent along.

The job's entry point is ``atoll run --resume`` (or ``atoll sweep``, which resumes by itself), so
the same submission made again continues where the job before it ended: after a lost head, a spot
machine that was taken back, or ``backoffLimit`` of a KubeRay ``RayJob``. For that the run directory
must be on storage that outlives the job.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError, RayError

from atoll.credentials import without_credentials
from atoll.errors import EngineError, InvalidExperimentError
from atoll.extras import OptionalModule
from atoll.platform.cluster import authentication
from atoll.platform.config.experiment import SWEEP, Experiment, load_experiment, read_tables

yaml = OptionalModule("yaml", "atoll submit --runtime-env")
logger = logging.getLogger("atoll")

# Never sent along, whatever the runtime environment excludes; Ray leaves out what git ignores, too.
EXCLUDES = ("/.git", "/.venv", "/runs", "__pycache__")
POLL_SECONDS = 1.0
# How long a head that has just started may take until it accepts jobs.
START_SECONDS = 60.0
# Seconds to connect, and between bytes of an answer; Ray's client waits on without end.
TIMEOUT = (20.0, 300.0)
# Seconds without a line in a job's log after which its head is asked whether it is still there.
SILENCE_SECONDS = 60.0
FAILED = 1

Write = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """Job to submit: the command, the cluster and the resources.

    Attributes
    ----------
    file : Path
        The experiment or sweep file, in the working directory.
    out : Path or None
        The run directory, an absolute path that the cluster's nodes share; None is
        ``run.out/run.name`` of the file.
    overrides : Sequence[str]
        ``section.key=value``.
    working_dir : Path
        The folder that is sent to the cluster; Atoll must be in it or be installed there.
    runtime_env : Path or None
        A YAML file with a Ray runtime environment.
    python : str
        The interpreter on the cluster.
    submission_id : str or None
        The job's id; None lets Ray choose one.
    resources : Mapping
        What the entry point takes of its node: ``entrypoint_num_cpus``, ``entrypoint_num_gpus``,
        ``entrypoint_memory`` (bytes), ``entrypoint_resources``.
    """

    file: Path
    out: Path | None = None
    overrides: Sequence[str] = ()
    working_dir: Path = Path()
    runtime_env: Path | None = None
    python: str = "python"
    submission_id: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)

    def entrypoint(self) -> str:
        """Return the job's command.

        Raises
        ------
        InvalidExperimentError
            If the file is not in the working directory or is no experiment, or there is no run
            directory that outlives the job.
        """
        tables = read_tables(self.file)
        is_sweep = SWEEP in tables
        if is_sweep:
            tables.pop(SWEEP)
            experiment = Experiment.from_dict(tables)
        else:
            experiment = load_experiment(self.file, self.overrides)
        if experiment.ray.address is not None:
            raise InvalidExperimentError(
                f"ray.address = {experiment.ray.address!r}: a job runs on the cluster that it is "
                "submitted to; expected none"
            )
        command = [self.python, "-m", "atoll", "sweep" if is_sweep else "run", self._place()]
        command += ["--out", str(self._out(experiment))]
        command += [] if is_sweep else ["--resume"]
        for override in self.overrides:
            if without_credentials(override) != override:
                raise InvalidExperimentError(
                    f"--set {without_credentials(override)!r}: has a password or a token, and Ray "
                    "shows a job's command to everybody; expected it in the file, or in the "
                    "environment of --runtime-env (MLFLOW_TRACKING_PASSWORD say)"
                )
        for override in self.overrides:
            command += ["--set", override]
        return shlex.join(command)

    def _place(self) -> str:
        """Return the file's path in the working directory."""
        try:
            place = self.file.resolve().relative_to(self.working_dir.resolve())
        except ValueError:
            raise InvalidExperimentError(
                f"{self.file}: is not below --working-dir = {str(self.working_dir)!r}, which is "
                "what is sent to the cluster; expected a file in it"
            ) from None
        return place.as_posix()

    def _out(self, experiment: Experiment) -> Path:
        out = self.out or experiment.run.out / experiment.run.name
        if not out.is_absolute():
            name = "run.out" if self.out is None else "--out"
            raise InvalidExperimentError(
                f"{name} = {str(self.out or experiment.run.out)!r}: is relative to the job's "
                "working directory, which goes with the job; expected an absolute path on "
                "storage that outlives it (--out /shared/runs/NAME)"
            )
        return out

    def environment(self) -> dict[str, Any]:
        """Return the job's runtime environment.

        Raises
        ------
        InvalidExperimentError
            If its file cannot be read.
        """
        if not self.working_dir.is_dir():
            raise InvalidExperimentError(
                f"--working-dir = {str(self.working_dir)!r}: no such folder; expected the folder "
                "that is sent to the cluster"
            )
        found = {} if self.runtime_env is None else read_runtime_env(self.runtime_env)
        excludes = [*(found.get("excludes") or ()), *EXCLUDES]
        return {**found, "working_dir": str(self.working_dir), "excludes": excludes}


def read_runtime_env(path: Path) -> dict[str, Any]:
    """Read a runtime environment's YAML file.

    Raises
    ------
    InvalidExperimentError
        If it cannot be read or has keys that no runtime environment has.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        problem = str(error).splitlines()[0]
        raise InvalidExperimentError(
            f"{path}: is not readable YAML ({problem}); expected a runtime environment"
        ) from error
    if not isinstance(found, dict):
        raise InvalidExperimentError(
            f"{path}: holds {type(found).__name__}; expected a runtime environment's keys "
            "(pip, env_vars, ...)"
        )
    known = _runtime_env_keys()
    for key in found:
        if key not in known:
            raise InvalidExperimentError(
                f"{path}: {key} is no key of a runtime environment; expected one of "
                f"{', '.join(sorted(known))}"
            )
    return found


def _runtime_env_keys() -> set[str]:
    from ray.runtime_env import RuntimeEnv

    return {name for name in RuntimeEnv.known_fields if not name.startswith("_")} | {"nsight"}


class RayJobs:
    """A cluster that jobs can be submitted to.

    Parameters
    ----------
    address : str
        The head's dashboard, ``http://HEAD:8265``.

    Raises
    ------
    EngineError
        If nothing answers there, or Ray was installed without its job client.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        try:
            self._client = _client(address)
        except ImportError as error:
            raise EngineError(
                f'atoll submit needs Ray\'s job client ({error}): pip install "atoll[cluster]"'
            ) from error
        except RuntimeError as error:
            if "ray[default]" in str(error):
                raise EngineError(
                    'atoll submit needs Ray\'s job client: pip install "atoll[cluster]"'
                ) from error
            raise EngineError(f"--address = {address!r}: {_first_line(error)}") from error
        except (ConnectionError, ValueError, OSError) as error:
            raise EngineError(
                f"--address = {address!r}: no Ray dashboard answers ({_first_line(error)}); "
                "expected the head's, http://HEAD:8265"
            ) from error

    def submit(self, submission: Submission) -> str:
        """Submit a job and return its id.

        Raises
        ------
        AtollError
            If the submission is not in order, or the cluster refuses it.
        """
        entrypoint, environment = submission.entrypoint(), submission.environment()
        named: dict[str, Any] = {
            "entrypoint": entrypoint,
            "submission_id": submission.submission_id,
            "metadata": {"name": submission.file.stem, "file": str(submission.file)},
            **submission.resources,
        }
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                # The client replaces the working directory in what it is given.
                return str(self._client.submit_job(**named, runtime_env=dict(environment)))
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise EngineError(
                        f"{self._address} refuses the job: {_last_line(error)}"
                    ) from error
                time.sleep(POLL_SECONDS)
            except (ValueError, TypeError, OSError, RayError) as error:
                raise EngineError(f"the job cannot be submitted: {_first_line(error)}") from error

    def follow(self, job: str, write: Write) -> int:
        """Write a job's log as it grows, until the job has ended.

        Returns
        -------
        int
            The exit code of its command; 1 if it was stopped or could not be started.

        Raises
        ------
        EngineError
            If the cluster no longer answers.
        """
        asyncio.run(self._write_log(job, write))
        details = self._details(job)
        if details.status == "SUCCEEDED":
            return 0
        if details.message:
            # Ray repeats the end of the log there, which has been written.
            told = details.message.strip().partition(", last available logs")[0]
            logger.error("job %s: %s", job, told)
        return details.driver_exit_code or FAILED

    async def _write_log(self, job: str, write: Write) -> None:
        shown = 0
        while not self._details(job).status.is_terminal():
            skip = shown
            try:
                # Each time from the log's beginning.
                async for text in self._log(job):
                    write(text[skip:])
                    shown += len(text[skip:])
                    skip = max(0, skip - len(text))
            except (RuntimeError, OSError, RayError) as error:
                logger.debug("job %s: the log broke off (%s)", job, error)
            await asyncio.sleep(POLL_SECONDS)
        write(self._client.get_job_logs(job)[shown:])

    async def _log(self, job: str) -> AsyncIterator[str]:
        """Yield pieces of the log; a head that is gone sends no more and says nothing of it."""
        pieces = self._client.tail_job_logs(job)
        while True:
            piece = asyncio.ensure_future(anext(pieces, None))
            while not piece.done():
                await asyncio.wait({piece}, timeout=SILENCE_SECONDS)
                if not piece.done():
                    self._details(job)
            text = piece.result()
            if text is None:
                return
            yield str(text)

    def _details(self, job: str) -> Any:
        try:
            return self._client.get_job_info(job)
        except (RuntimeError, OSError, RayError) as error:
            raise EngineError(
                f"{self._address}: job {job} cannot be asked after ({_first_line(error)}); "
                "submit it again to continue"
            ) from error


def _client(address: str) -> Any:
    """Return Ray's job client, with the token if the cluster asks for one.

    Raises
    ------
    EngineError
        If it asks for one that is not at hand.
    """
    jobs: Any = importlib.import_module("ray.job_submission")

    class Client(jobs.JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": TIMEOUT, **options})

    where = f"--address = {address!r}"
    try:
        return Client(address)
    except AuthenticationError:
        found = authentication.token_to_show(where)
    try:
        return Client(address, headers={"Authorization": f"Bearer {found}"})
    except AuthenticationError as error:
        raise EngineError(authentication.is_wrong(where)) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)


def entrypoint_resources(
    cpus: float | None, gpus: float | None, memory: int | None, custom: str | None
) -> dict[str, Any]:
    """Return the entry point's resources as the job client takes them.

    Parameters
    ----------
    custom : str or None
        A JSON object of other resources, ``{"spot": 1}``.

    Raises
    ------
    AtollError
        If ``custom`` is not such an object.
    """
    named: dict[str, Any] = {
        "entrypoint_num_cpus": cpus,
        "entrypoint_num_gpus": gpus,
        "entrypoint_memory": memory,
    }
    if custom is not None:
        named["entrypoint_resources"] = _resources_of(custom)
    return {name: value for name, value in named.items() if value is not None}


def _resources_of(text: str) -> dict[str, float]:
    try:
        found = json.loads(text)
        return {str(name): float(amount) for name, amount in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidExperimentError(
            f"--entrypoint-resources = {text!r}: expected a JSON object of numbers, "
            "'{\"spot\": 1}' say"
        ) from error
