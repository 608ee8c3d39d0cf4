"""Size of uploads that are coded: the metric by which a client tells how many bytes it sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A mod that codes what is sent reports the code's size; arrays travel here as they are.
CODED_BYTES = "coded-bytes"


def uploaded_bytes(metrics: Mapping[str, Any] | None, of_arrays: int) -> int:
    """Return the bytes of a client's upload.

    Parameters
    ----------
    metrics : mapping or None
        The reply's.
    of_arrays : int
        The bytes of its arrays, which count where the metrics say nothing else.

    Examples
    --------
    >>> uploaded_bytes({"loss": 0.5}, 400), uploaded_bytes({"coded-bytes": 37}, 400)
    (400, 37)
    """
    coded = (metrics or {}).get(CODED_BYTES)
    # A bool is an int, and a client may send anything.
    return coded if type(coded) is int and coded >= 0 else of_arrays
