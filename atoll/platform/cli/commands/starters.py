"""``atoll init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.platform.cli.completion import complete_starter
from atoll.platform.cli.terminal import clear_errors, console


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to; by default the current folder.")
    ] = Path(),
    kind: Annotated[
        str,
        typer.Option(
            help="images, domains, attack, noprop or flower-app.", autocompletion=complete_starter
        ),
    ] = "images",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Write a commented experiment, or a Flower app, that is ready to run."""
    with clear_errors():
        from atoll.platform.starters.starter import find_starter, write_starter

        starter = find_starter(kind)
        for path in write_starter(starter, folder, force=force):
            console.print(f"wrote {path}", soft_wrap=True, markup=False)
        console.print("next:")
        if folder.resolve() != Path.cwd():
            console.print(f"  cd {folder}", soft_wrap=True, markup=False)
        for command in starter.commands:
            console.print(f"  {command}", soft_wrap=True, markup=False)
