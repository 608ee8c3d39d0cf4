"""Kinds of draws and accountants, for settings: nothing is loaded for them."""

from __future__ import annotations

from typing import Literal

Sampling = Literal["fixed", "poisson", "epochs"]
Accountant = Literal["rdp", "pld"]
