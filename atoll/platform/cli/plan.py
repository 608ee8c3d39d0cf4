"""``atoll run --dry-run``: what would run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.platform.cli.columns import name_lines
from atoll.platform.cli.terminal import console

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment


def show_plan(experiment: Experiment) -> None:
    """Show what would run; nothing is started or written."""
    from atoll.platform.runs.plan import plan_lines, plan_run

    width = console.width if console.is_terminal else None
    for line in name_lines(list(plan_lines(plan_run(experiment))), width):
        console.print(line, soft_wrap=True, markup=False, emoji=False)
    console.print("nothing was started")
