"""Removal of credentials from what is written: run directories, reports, logs."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# scheme://user:password@host, as far as the host; a user alone may be a token.
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s?#'\"<>]*@")
_SECRET = re.compile(
    r"(?P<key>[?&;][^=&;\s'\"<>]*"
    r"(?:token|password|passwd|pwd|secret|signature|sig|credential|auth|key)"
    r"[^=&;\s'\"<>]*=)[^&;#\s'\"<>]+",
    re.IGNORECASE,
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def without_credentials(text: str) -> str:
    """Return a text in which no URI has a user, a password or a secret parameter."""
    return _URI.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    bare = _USER.sub(r"\g<scheme>", found[0])
    return _SECRET.sub(rf"\g<key>{HIDDEN}", bare)


def tables_without_credentials(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables in which no string has credentials (:func:`without_credentials`)."""
    return {name: _value_without(value) for name, value in tables.items()}


def _value_without(value: Any) -> Any:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return tables_without_credentials(value)
    if isinstance(value, list | tuple):
        return type(value)(_value_without(item) for item in value)
    return value


class HidingFormatter(logging.Formatter):
    """A log's formatter: what it says, tracebacks too, has no credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's text."""
        return without_credentials(super().format(record))
