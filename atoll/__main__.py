"""Entry point of the command line: ``atoll`` and ``python -m atoll``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    _search_here_last()
    # Flower decides on telemetry when it is imported.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        from atoll.platform.cli.application import application

        application()
    except KeyboardInterrupt:
        # Before a command has begun; what interrupts one is the command's to say.
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _search_here_last() -> None:
    """Take the current folder from the front of the search path, where ``python -m`` puts it.

    It may be another person's, and nothing in it is to stand in for what is installed. A user's own
    module is found all the same: the folder is searched last when an experiment names one.
    """
    here = os.getcwd()
    if sys.path and sys.path[0] in ("", here):
        del sys.path[0]
        if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == here:
            sys.path.append(here)


if __name__ == "__main__":
    main()
