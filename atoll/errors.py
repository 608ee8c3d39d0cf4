"""Errors that a user can correct.

Everything that Atoll refuses ends as an :class:`AtollError`: one line that names the key or file,
the value, and what was expected. The command line prints it without a traceback and exits with
``exit_code``.
"""

from __future__ import annotations


class AtollError(Exception):
    """Problem that the user can correct; its text is one complete sentence for the terminal."""

    exit_code = 1


class InvalidExperimentError(AtollError):
    """The experiment file (or a ``--set``) asks for something that cannot be run."""

    exit_code = 2


class UnknownNameError(InvalidExperimentError):
    """A name (data set, model, strategy, ...) that nothing is registered under."""


class DataUnavailableError(AtollError):
    """A data set could not be found, fetched or verified from any of its sources."""

    exit_code = 2


class RunDirectoryError(AtollError):
    """A run directory or checkpoint that cannot be read or written."""


class CorruptCheckpointError(RunDirectoryError):
    """A checkpoint whose files do not match its manifest."""


class EngineError(AtollError):
    """Failure of the engine: no workers can be started, no client replied, ..."""


class CaptureError(RunDirectoryError):
    """A capture that cannot be read, or lacks what is asked of it."""

    exit_code = 2


class AttackError(AtollError):
    """An attack that cannot be run on what it is given, or has been given wrong settings."""

    exit_code = 2


class UntrustedCodeError(AtollError):
    """Code in another person's file that would be imported without the user's consent."""

    exit_code = 2
