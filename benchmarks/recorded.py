"""The date and the commit of a run, which tables name."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def date_and_commit() -> str:
    """Return them as a table's heading has them."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return f"{datetime.date.today()}, commit {commit.strip()}"
