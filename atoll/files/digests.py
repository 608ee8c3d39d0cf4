"""Hashes of descriptions: what tells one cache entry, trial or run from another."""

from __future__ import annotations

import hashlib
import json


def sha256_of_json(described: object) -> str:
    """Return the SHA-256 of what JSON can hold, in a canonical form: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
