"""Reasons of clients' failures: logged once for each kind, and kept in the run directory.

A traceback is of use where the error is seen first, and no more the thousandth time.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

from atoll.errors import RunDirectoryError
from atoll.platform.grid.exchange.dispatch import ExchangeReport
from atoll.platform.messages.outcome import Failure

logger = logging.getLogger("atoll")

CLIENT_ERRORS = "client_errors.txt"
# Kinds of failure that are kept; a reason that never repeats must not fill the disk.
MAX_KINDS = 100
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?")


class ClientFailures:
    """The failures of a run's clients.

    Parameters
    ----------
    directory : Path or None
        The run directory, which gets ``client_errors.txt``; None keeps no file.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._path = None if directory is None else directory / CLIENT_ERRORS
        self._kinds: set[str] = set()

    def note(self, report: ExchangeReport) -> None:
        """Take note of an exchange: say what is new, and if every client has failed."""
        failed = [(o.node_id, o.failure) for o in report.outcomes if o.failure is not None]
        for node_id, failure in failed:
            self._say_if_new(report, node_id, failure)
        if failed and len(failed) == len(report.outcomes):
            reasons = Counter(failure.reason or "no reason given" for _, failure in failed)
            reason, count = reasons.most_common(1)[0]
            logger.error(
                "%s, round %d: all %d clients failed; %d of them: %s",
                report.kind,
                report.server_round,
                len(failed),
                count,
                reason,
            )

    def _say_if_new(self, report: ExchangeReport, node_id: int, failure: Failure) -> None:
        if failure.details is None:
            return
        kind = _kind_of(failure)
        if kind in self._kinds or len(self._kinds) >= MAX_KINDS:
            return
        self._kinds.add(kind)
        head = f"{report.kind}, round {report.server_round}, node {node_id}"
        logger.error("%s: %s\n%s", head, failure.reason, failure.details.rstrip())
        if self._path is None:
            return
        try:
            with self._path.open("a") as file:
                file.write(f"{head}: {failure.reason}\n{failure.details.rstrip()}\n\n")
        except OSError as error:
            raise RunDirectoryError(f"{self._path}: cannot be written ({error})") from error


def _kind_of(failure: Failure) -> str:
    """Return what failures of one kind share: the traceback but for numbers."""
    return _NUMBERS.sub("#", failure.details or failure.reason or "")
