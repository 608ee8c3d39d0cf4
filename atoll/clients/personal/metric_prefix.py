"""Prefix of the names of metrics of clients' own models."""

from __future__ import annotations

PERSONAL = "personal-"
