"""One trial of a sweep, run or resumed in a process of its own, its log in a file beside it."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from atoll.credentials import HidingFormatter, without_credentials
from atoll.errors import AtollError
from atoll.files.recorded import remove_recorded, write_recorded_json
from atoll.platform.config.experiment import Experiment
from atoll.platform.reports.run_report import write_report
from atoll.platform.run_directory.run_files import CONFIG
from atoll.platform.run_directory.run_lock import DirectoryInUseError, RunLock
from atoll.platform.runs.federation_run import run
from atoll.platform.sweeps.trial_rows import STOPPED, log_of
from atoll.platform.sweeps.trial_stopping import AskAfterRound, TrialStopped
from atoll.user_code.main_module import MainCode

# How long a trial of a killed sweep may continue.
ORPHAN_SECONDS = 60.0


def run_trial(
    tables: dict[str, Any],
    directory: str,
    workers: int,
    search_path: list[str],
    main: MainCode,
    ask: AskAfterRound | None = None,
) -> str | None:
    """Run or resume a trial (in a process of its own); return why it failed, or None."""
    sys.path.extend(path for path in search_path if path not in sys.path)
    main.install()

    place, started = Path(directory), time.monotonic()
    callbacks = () if ask is None else (ask,)
    log_path = log_of(place)
    with _LogFile(log_path) as log:
        try:
            _wait_until_free(place)
            remove_recorded(place / STOPPED)
            if (place / CONFIG).is_file():
                if ask is not None:
                    ask.before_going_on(place, int(tables["run"]["rounds"]))
            else:
                # What a trial leaves that was killed before it could begin.
                shutil.rmtree(place, ignore_errors=True)
            tables["ray"]["workers"] = workers
            # As the sweep has it: what is in the directory may be another person's.
            run(Experiment.from_dict(tables), out=place, resume=True, callbacks=callbacks)
        except TrialStopped as stop:
            log.info("stopped early after round %d", stop.server_round)
            _write_stopped(place, stop, time.monotonic() - started)
        except AtollError as error:
            log.exception("failed")
            return without_credentials(str(error))
        except Exception as error:
            log.exception("failed")
            said = without_credentials(f"{type(error).__name__}: {error}")
            return f"{said} ({log_path} has more)"
    return None


def _write_stopped(place: Path, stop: TrialStopped, seconds: float) -> None:
    stopped = {"round": stop.server_round, "metric": stop.metric, "value": stop.value}
    write_recorded_json(place / STOPPED, {**stopped, "seconds": seconds})
    write_report(place)


def _wait_until_free(place: Path) -> None:
    """Wait for a trial's process that outlived its sweep (Ray ends it after some seconds)."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while place.exists():
        lock = RunLock(place)
        try:
            lock.acquire()
        except DirectoryInUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            lock.release()
            return


class _LogFile:
    """Within this context, Atoll's log goes to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> logging.Logger:
        self._handler = logging.FileHandler(self._path)
        self._handler.setFormatter(HidingFormatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("atoll")
        self._before = logger.handlers[:], logger.propagate, logger.level
        logger.handlers, logger.propagate = [self._handler], False
        logger.setLevel(logging.INFO)
        logging.getLogger("flwr").setLevel(logging.ERROR)
        return logger

    def __exit__(self, *exception: object) -> None:
        logger = logging.getLogger("atoll")
        logger.handlers, logger.propagate, level = self._before
        logger.setLevel(level)
        self._handler.close()
