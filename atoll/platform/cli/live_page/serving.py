"""``atoll watch --web``, from the directory to the end by ctrl-C."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from atoll.platform.cli.live_page.server import LiveServer
from atoll.platform.cli.live_page.views import view_of
from atoll.platform.cli.watching.watch import wait_for


def serve(directory: Path, console: Console, *, port: int = 0, every: float = 2.0) -> None:
    """Serve the live page of a run, a sweep or an arena until it is interrupted.

    Parameters
    ----------
    directory : Path
        Its directory, which need not be there yet.
    console : Console
        Is told the URL.
    port : int
        The port; 0 is any that is free.
    every : float
        Seconds between looks.

    Raises
    ------
    AtollError
        If the directory is of something else, or the port cannot be had.
    """
    try:
        wait_for(directory, console, every=every)
        with LiveServer(view_of(directory), port, every) as server:
            console.print(f"{server.url} (ctrl-C ends it)", soft_wrap=True, markup=False)
            server.serve_forever()
    except KeyboardInterrupt:
        console.print("ended")
