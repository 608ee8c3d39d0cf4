"""``atoll`` and ``python -m atoll``."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # Flower decides on telemetry when it is imported.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from atoll.platform.command_line import application

    application()


if __name__ == "__main__":
    main()
