"""Durations as a user writes them: 90s, 45m, 2h, 1h30m."""

from __future__ import annotations

import re

from atoll.errors import InvalidExperimentError

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_PARTS = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?"
)


def seconds_of(duration: str | None, option: str) -> float | None:
    """Return a duration in seconds; None for None.

    Parameters
    ----------
    duration : str, optional
        Hours, minutes and seconds, each with its letter.
    option : str
        The option that it was given to, for the error.

    Raises
    ------
    InvalidExperimentError
        If it is no duration, or 0.

    Examples
    --------
    >>> seconds_of("1h30m", "--budget"), seconds_of("90s", "--budget")
    (5400.0, 90.0)
    """
    if duration is None:
        return None
    found = _PARTS.fullmatch(duration.strip().lower())
    parts = found.groupdict() if found else {}
    seconds = sum(float(parts[unit] or 0.0) * _SECONDS[unit] for unit in parts)
    if not seconds:
        raise InvalidExperimentError(
            f"{option} = {duration!r}: expected a duration such as 90s, 45m, 2h or 1h30m"
        )
    return seconds
