"""A Ray for a benchmark alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def own_ray() -> Iterator[None]:
    """Within this context no other Ray of this machine is found, nor this one by others."""
    # A short name: sockets below it may have paths of about a hundred letters.
    with (
        tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, {"RAY_TMPDIR": folder}),
    ):
        os.environ.pop("RAY_ADDRESS", None)
        yield
