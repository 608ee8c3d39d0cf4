"""The command line, ``atoll``: its commands are in :mod:`atoll.platform.cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from atoll.platform.cli import apps, attacks, runs, sweeps
from atoll.platform.cli.terminal import console

application = typer.Typer(
    name="atoll",
    help="Federated learning on Ray and Flower: run, resume and report federations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_commands = typer.Typer(help="Data sets.", no_args_is_help=True)
application.add_typer(data_commands, name="data")

for command in (
    runs.run,
    sweeps.sweep,
    sweeps.submit,
    runs.resume,
    runs.watch,
    runs.report,
    attacks.attack,
    attacks.labels,
    sweeps.arena,
    attacks.doctor,
    apps.flower,
):
    application.command()(command)
application.command("list")(runs.list_names)
application.command("train-generator")(attacks.train_generator)
data_commands.command("get")(apps.data_get)


def _version(show: bool) -> None:
    if show:
        from atoll import __version__

        console.print(f"atoll {__version__}")
        raise typer.Exit


@application.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Federated learning on Ray and Flower: run, resume and report federations."""
