"""Kinds of draws and accountants, and names of metrics: nothing is loaded for them."""

from __future__ import annotations

from typing import Literal

Sampling = Literal["fixed", "poisson", "epochs"]
Accountant = Literal["rdp", "pld"]
# Metrics of a round under the server's noise: what has been spent so far.
EPSILON, DELTA = "privacy_epsilon", "privacy_delta"
