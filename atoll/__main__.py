"""``atoll`` and ``python -m atoll``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from atoll.platform.session import process_environment

    process_environment()
    from atoll.platform.command_line import application

    application()


if __name__ == "__main__":
    main()
