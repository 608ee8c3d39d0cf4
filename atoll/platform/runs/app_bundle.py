"""The bundle (FAB) that Flower makes of an app directory: its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flwr.cli.build import build_fab_from_disk


def bundle_hash(directory: Path) -> str:
    """Return the SHA-256 of an app's bundle, as 64 hexadecimal digits.

    It is the ``fab_hash`` of the app's ``Run`` on stock Flower. It is empty where Flower refuses to
    bundle the folder.
    """
    try:
        return hashlib.sha256(build_fab_from_disk(directory)).hexdigest()
    except (OSError, ValueError):
        return ""
