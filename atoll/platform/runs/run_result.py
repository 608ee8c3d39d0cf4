"""The result of a run, as a program has it and as a person sees it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from atoll.platform.callbacks.round_figures import final_figures


@dataclass(frozen=True, repr=False)
class RunResult:
    """Result of a run.

    Attributes
    ----------
    directory : Path
        The run directory.
    arrays : ArrayRecord
        The final global model.
    metrics : dict
        The last round's metrics, as in ``result.json``.
    summary : dict
        All of ``result.json``.
    """

    directory: Path
    arrays: ArrayRecord
    metrics: dict[str, Any]
    summary: dict[str, Any]

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"RunResult({self.directory}: {facts})"

    def _repr_html_(self) -> str:
        rows = {"run directory": str(self.directory), **self._facts()}
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"

    def _facts(self) -> dict[str, str]:
        """Return what a person asks of a run first, by its name; nothing of it is long."""
        facts = {"rounds": str(self.summary.get("rounds", "?"))}
        facts |= final_figures(self.metrics)
        facts["client errors"] = str(self.summary.get("errors", 0))
        if "wall_seconds" in self.summary:
            facts["seconds"] = f"{self.summary['wall_seconds']:.1f}"
        return facts
