"""The command line, ``atoll``: its commands are in :mod:`atoll.platform.cli`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from atoll.platform.cli import apps, attacks, finished_runs, reference, runs, starters, sweeps
from atoll.platform.cli.terminal import console


class CommandGroup(TyperGroup):
    """A group of commands that answers a mistyped one with the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments begin with."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from atoll.error_messages import closest

            ctx.fail(f"{ctx.command_path} {name}: no such command; {closest(name, self.commands)}")
        return super().resolve_command(ctx, args)


application = typer.Typer(
    name="atoll",
    cls=CommandGroup,
    help="Federated learning on Ray and Flower: run, resume and report federations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_commands = typer.Typer(cls=CommandGroup, help="Data sets.", no_args_is_help=True)
application.add_typer(data_commands, name="data")


def help_of(command: Callable[..., None]) -> str:
    """Return a command's docstring, each paragraph one line: the terminal wraps them."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(p if "\b" in p else " ".join(p.split()) for p in paragraphs)


for command in (
    starters.init,
    runs.run,
    sweeps.sweep,
    sweeps.submit,
    runs.resume,
    runs.watch,
    runs.report,
    finished_runs.runs,
    finished_runs.compare,
    finished_runs.plot,
    finished_runs.export,
    attacks.attack,
    attacks.labels,
    sweeps.arena,
    attacks.doctor,
    apps.flower,
    reference.explain,
):
    application.command(help=help_of(command))(command)
application.command("list")(reference.list_names)
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
