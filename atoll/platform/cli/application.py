"""The command line, ``atoll``: its commands are in :mod:`atoll.platform.cli`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, ClassVar

import click
import typer
from typer.core import TyperCommand, TyperGroup

from atoll.platform.cli.commands import (
    apps,
    attacks,
    finished_runs,
    reference,
    runs,
    starters,
    sweeps,
    unlearning,
)
from atoll.platform.cli.terminal import console


class HelpFormatter(click.HelpFormatter):
    """A formatter of help texts as plain text."""

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names and what they mean, in two columns."""
        # Typer escapes brackets for Rich even where it does not print with it.
        rows = [(name, meaning.replace(r"\[", "[")) for name, meaning in rows]
        super().write_dl(rows, col_max, col_spacing)


class Context(click.Context):
    """A command's context, whose help is plain text."""

    formatter_class = HelpFormatter


class Command(TyperCommand):
    """A command."""

    context_class = Context


class CommandGroup(TyperGroup):
    """A group of commands that makes a command when it is asked for.

    To make a command is to read its function's annotations, which takes milliseconds. A mistyped
    command is answered with the nearest.
    """

    context_class = Context
    functions: ClassVar[Mapping[str, Callable[..., None]]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names."""
        return [*self.functions, *(name for name in self.commands if name not in self.functions)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None where there is none of that name."""
        if cmd_name in self.functions and cmd_name not in self.commands:
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(cmd_name, cls=Command)(self.functions[cmd_name])
            self.commands[cmd_name] = typer.main.get_command(alone)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' names, each with the whole first sentence of its help."""
        rows = []
        for name in self.list_commands(ctx):
            function = self.functions.get(name)
            about = inspect.getdoc(function) if function else self.commands[name].help
            rows.append((name, " ".join((about or "").partition("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments begin with."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from atoll.error_messages import closest

            names = self.list_commands(ctx)
            ctx.fail(f"{ctx.command_path} {name}: no such command; {closest(name, names)}")
        return super().resolve_command(ctx, args)


class DataCommands(CommandGroup):
    """The commands of ``atoll data``."""

    functions: ClassVar = {"get": apps.data_get}


class Commands(CommandGroup):
    """The commands of ``atoll``."""

    functions: ClassVar = {
        "init": starters.init,
        "run": runs.run,
        "sweep": sweeps.sweep,
        "submit": sweeps.submit,
        "resume": runs.resume,
        "watch": runs.watch,
        "report": runs.report,
        "runs": finished_runs.runs,
        "compare": finished_runs.compare,
        "plot": finished_runs.plot,
        "export": finished_runs.export,
        "attack": attacks.attack,
        "labels": attacks.labels,
        "membership": attacks.membership,
        "audit": attacks.audit,
        "unlearn": unlearning.unlearn,
        "arena": sweeps.arena,
        "doctor": attacks.doctor,
        "flower": apps.flower,
        "explain": reference.explain,
        "list": reference.list_names,
        "train-generator": attacks.train_generator,
        "train-prior": attacks.train_prior,
        "unlearn-class": unlearning.unlearn_class,
    }


application = typer.Typer(
    name="atoll",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich's panels take longer to load than all else that the help needs.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
data_commands = typer.Typer(
    cls=DataCommands, help="Data sets.", no_args_is_help=True, rich_markup_mode=None
)
application.add_typer(data_commands, name="data")


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
