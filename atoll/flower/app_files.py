"""The files of a Flower app as Flower's command line reads them: configuration and bundle.

It brings pydantic and a web framework along, so what a worker imports does not import it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from flwr.cli.build import build_fab_from_disk
from flwr.common.config import flatten_dict, fuse_dicts, parse_config_args

__all__ = ["bundle_hash", "flatten_dict", "fuse_dicts", "parse_config_args"]


def bundle_hash(directory: Path) -> str:
    """Return the SHA-256 of an app's bundle (FAB), as 64 hexadecimal digits.

    It is the ``fab_hash`` of the app's ``Run`` on stock Flower. It is empty where Flower refuses to
    bundle the folder.
    """
    try:
        return hashlib.sha256(build_fab_from_disk(directory)).hexdigest()
    except (OSError, ValueError):
        return ""
