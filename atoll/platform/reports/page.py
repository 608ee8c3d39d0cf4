"""Pages of reports: one file each, with its figures, styles and scripts in it.

The scripts are ours and small (``templates/*.js``). So a page of a short run has some dozens of
kilobytes, opens without a network, and can be moved or sent alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2

from atoll.platform.reports.figures.drawing import Figure, figures_json

SCRIPTS = ("axes.js", "figures.js", "grids.js", "page.js")
STYLES = "page.css"


def render(
    template: str,
    *,
    figures: Sequence[tuple[str, Figure]],
    clients: Mapping[str, Any] | None = None,
    **values: Any,
) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        A file in ``templates``; it puts figures by their places in ``figures``.
    figures : Sequence of (title, Figure)
        All of the page's.
    clients : Mapping, optional
        Curves of single clients, for a choice of one.
    values : Any
        What else the template has.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("atoll.platform.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        titles=[title for title, _ in figures],
        figures_json=figures_json(figures, clients),
        script="\n".join(map(_text_of, SCRIPTS)),
        style=_text_of(STYLES),
        clients=clients,
        **values,
    )


@lru_cache(maxsize=8)
def _text_of(name: str) -> str:
    return (files("atoll.platform.reports") / "templates" / name).read_text(encoding="utf-8")
