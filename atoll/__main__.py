"""``atoll`` and ``python -m atoll``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    # Flower decides on telemetry when it is imported.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        from atoll.platform.command_line import application

        application()
    except KeyboardInterrupt:
        # Before a command has begun; what interrupts one is the command's to say.
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
