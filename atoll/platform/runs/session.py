"""One run and its directory: its observers, its files, and its end.

Both ``atoll run`` and ``atoll flower`` are a session: the run directory is locked, the ledger and
the terminal follow the rounds, and whatever ends the run leaves it resumable.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tomli_w
from flwr.app import ArrayRecord

from atoll.credentials import tables_without_credentials
from atoll.errors import EngineError, RunDirectoryError
from atoll.files.manifests import MANIFEST
from atoll.files.recorded import write_recorded_text
from atoll.platform.callbacks.observers import Observer, RoundRecord
from atoll.platform.reports.run_report import write_report
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import CheckpointStore, parameters_sha256
from atoll.platform.run_directory.identity import IDENTITY, RunIdentity
from atoll.platform.run_directory.ledger import Ledger
from atoll.platform.run_directory.run_files import CONFIG
from atoll.platform.run_directory.run_lock import DirectoryInUseError, RunLock, is_free

logger = logging.getLogger("atoll")

UNCHANGED = "no round changed the model: its parameters are the initial ones, bit for bit"
SMALL_STEPS = (
    "are client.learning_rate or client.gradient_clip so small that steps are lost in rounding?"
)
VERSIONED = ("atoll", "flwr", "ray", "torch", "numpy")


def versions() -> dict[str, str]:
    """Return the versions that a run's bits depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def new_run_directory(out: Path | None, parent: Path, name: str) -> Path:
    """Return the directory for a new run: ``out``, or the first free ``parent/name[-n]``.

    Raises
    ------
    RunDirectoryError
        If ``out`` is a file, or exists and is not empty.
    """
    if out is not None:
        refuse_if_taken(out)
        return out
    candidate, count = parent / name, 1
    while candidate.exists():
        count += 1
        candidate = parent / f"{name}-{count}"
    return candidate


def claim_run_directory(out: Path | None, parent: Path, name: str) -> RunLock:
    """Return the lock, taken, of the directory of a new run (:func:`new_run_directory`).

    Raises
    ------
    RunDirectoryError
        If ``out`` is taken or in use, or nothing can be written there.
    """
    while True:
        lock = RunLock(new_run_directory(out, parent, name))
        try:
            lock.acquire()
            # Another process may have chosen the same name, and even have ended meanwhile.
            refuse_if_taken(lock.directory)
            return lock
        except DirectoryInUseError:
            if out is not None:
                raise
        except RunDirectoryError:
            lock.release()
            if out is not None or not lock.directory.is_dir():
                raise


def refuse_if_taken(out: Path) -> None:
    """Refuse a directory with more in it than a run leaves that is killed as it begins.

    Raises
    ------
    RunDirectoryError
        If it is such a one, or no directory.
    """
    if out.exists() and not out.is_dir():
        raise RunDirectoryError(f"--out = {str(out)!r}: is a file; expected a new directory")
    if not is_free(out, left=(IDENTITY, MANIFEST)):
        raise RunDirectoryError(
            f"--out = {str(out)!r}: is there already and not empty; expected a new directory "
            f"('atoll resume {out}' continues a run)"
        )


class Session:
    """A run in its directory.

    Parameters
    ----------
    directory : Path
        The run directory.
    config : Mapping or None
        The resolved configuration, written as ``config.toml``; None keeps the one that is there.
    identity : RunIdentity
        Identity of the run; a resumed run must have the same.
    is_new : bool
        Whether the run is new; otherwise it is resumed.
    keep_checkpoints : int
        How many checkpoints stay.
    observers : Callable
        Makes the observers beside the ledger, given the directory.
    lock : RunLock, optional
        The directory's, if it has been taken already; it is let go of with the session.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any] | None,
        *,
        identity: RunIdentity,
        is_new: bool,
        keep_checkpoints: int,
        observers: Callable[[Path], list[Observer]],
        lock: RunLock | None = None,
    ) -> None:
        self.directory = directory
        self.checkpoints = CheckpointStore(directory / "checkpoints", keep_checkpoints)
        self._lock = lock or RunLock(directory)
        self._lock.acquire()
        try:
            self.ledger = self._open_ledger(config, identity, is_new=is_new)
        except BaseException:
            self._lock.release()
            raise
        self._observers: list[Observer] = [self.ledger, *observers(directory)]
        self._started = time.perf_counter()

    def _open_ledger(
        self, config: Mapping[str, Any] | None, identity: RunIdentity, *, is_new: bool
    ) -> Ledger:
        text = None
        if config is not None:
            tables = tables_without_credentials(config)
            text = tomli_w.dumps({**tables, "versions": identity.versions})
        if is_new:
            # Another process may have run here since the directory was chosen.
            refuse_if_taken(self.directory)
            identity.write(self.directory)
            return Ledger.create(self.directory, text or "")
        identity.check_same(self.directory)
        if text is not None:
            write_recorded_text(self.directory / CONFIG, text)
        self.checkpoints.remove_partials()
        checkpoint = self.checkpoints.latest()
        return Ledger.reopen(self.directory, 0 if checkpoint is None else checkpoint.server_round)

    def options(self, **more: Any) -> RoundOptions:
        """Return the round loop's options for this session."""
        return RoundOptions(
            checkpoints=self.checkpoints,
            observers=self._observers,
            directory=self.directory,
            before_checkpoint=self.ledger.flush,
            **more,
        )

    def finish(
        self,
        arrays: ArrayRecord | None,
        *,
        initial: ArrayRecord | None = None,
        report: bool = True,
        **more: Any,
    ) -> dict[str, Any]:
        """Write the report and the result, and tell every observer.

        The result comes last: where it is, nothing is missing. It is made from the ledger, so a
        run that was killed after its last round has the same.

        Parameters
        ----------
        arrays : ArrayRecord or None
            The final model; None if there is none.
        initial : ArrayRecord, optional
            The initial model, where one that has not changed is an error.
        report : bool
            Whether a report is written; ``atoll report`` can at any time. It takes as long as
            some short runs.

        Raises
        ------
        EngineError
            If all clients failed, in every round, or no round changed the model; there is a
            report then, if one was asked for, and no result.
        """
        self.ledger.flush()
        sha256 = None if arrays is None else parameters_sha256(arrays)
        try:
            self.ledger.raise_if_all_failed()
            if initial is not None and sha256 == parameters_sha256(initial):
                cause = self.ledger.most_frequent_failure() or SMALL_STEPS
                raise EngineError(f"{UNCHANGED}; {cause}")
        except EngineError:
            if report:
                self._write_report()
            raise
        rounds, metrics = self.ledger.last_round()
        result = {
            "status": "finished",
            "rounds": rounds,
            "metrics": metrics,
            "wall_seconds": time.perf_counter() - self._started,
            "errors": self.ledger.count_errors(),
            "parameters_sha256": sha256,
            **more,
        }
        made = self._write_report(result) if report else f"by 'atoll report {self.directory}'"
        self.ledger.write_result(result)
        result["report"] = made
        for observer in self._observers:
            observer.on_end(result)
        return result

    def _write_report(self, result: Mapping[str, Any] | None = None) -> str:
        return str(write_report(self.directory, result))

    def record(self, record: RoundRecord) -> None:
        """Tell every observer of a round that an app ran without a round loop of ours."""
        for observer in self._observers:
            observer.on_round(record)

    def unit_ended(self, name: str, server_round: int, num_rounds: int) -> None:
        """Tell every observer of a unit's end of an epoch."""
        for observer in self._observers:
            observer.on_unit(name, server_round, num_rounds)

    def close(self) -> None:
        """Write what is buffered and let go of the directory."""
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            for observer in reversed(self._observers):
                stack.callback(observer.close)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
