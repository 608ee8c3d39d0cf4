"""Folders of the repository that tests read or run."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
CLUSTERS = ROOT / "tests" / "support" / "clusters"
