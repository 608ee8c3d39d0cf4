"""``atoll run``, ``resume``, ``watch`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.platform.cli.output.printed_tables import CsvOption, LatexOption, form_of, print_tables
from atoll.platform.cli.terminal import (
    OutOption,
    SetOption,
    TrustOption,
    WorkersOption,
    clear_errors,
    console,
    console_observers,
    log_to_terminal,
    quiet_flower,
    say_loading,
    settings_of,
    who_is_trusted,
)


def run(
    file: Annotated[Path, typer.Argument(help="The experiment file (TOML).")],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    out: OutOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run that is in the run directory, if one is. Without --out, the "
            "run directory is run.out/run.name then.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check all and show what would run; start nothing."),
    ] = False,
) -> None:
    """Run an experiment."""
    directories: list[Path] = []
    with clear_errors(lambda: directories[0] if directories else None):
        if not dry_run and file.is_file():
            # Before anything that takes long is imported.
            say_loading(file.name)
        from atoll.platform.config.experiment import load_experiment

        # Before PyTorch is loaded: a file with an error in it is refused at once.
        experiment = load_experiment(file, settings_of(overrides, workers))
        if dry_run:
            from atoll.platform.cli.output.plan import show_plan

            log_to_terminal(experiment.log.level)
            quiet_flower()
            show_plan(experiment)
            return
        from atoll.platform.runs.federation_run import run as run_experiment

        log_to_terminal(experiment.log.level)
        quiet_flower()
        observers = console_observers(directories, progress=experiment.log.progress)
        run_experiment(experiment, out=out, resume=resume, observers=observers)


def resume(
    run_directory: Annotated[Path, typer.Argument(help="The directory of an interrupted run.")],
    workers: WorkersOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Continue an interrupted run; its result has the same bits as without the interruption."""
    with clear_errors(lambda: run_directory):
        from atoll.platform.run_directory.run_files import CONFIG, check_run_directory, read_config

        check_run_directory(run_directory)
        say_loading(run_directory.resolve().name)
        from atoll.platform.runs.apps.app_run import is_app_run, resume_app
        from atoll.platform.runs.federation_run import resume as resume_run
        from atoll.user_code.trust import admitted, uses_in

        log_to_terminal("info")
        observers, ask = console_observers([]), who_is_trusted(trust_code)
        if is_app_run(run_directory):
            # All of a Flower app is a user's code.
            with admitted(uses_in(read_config(run_directory)), run_directory / CONFIG, ask):
                pass
            resume_app(run_directory, workers=workers, observers=observers)
        else:
            quiet_flower()
            resume_run(run_directory, workers=workers, observers=observers, ask=ask)


def watch(
    run_directory: Annotated[
        Path, typer.Argument(help="The directory of a run, a sweep or an arena.")
    ],
    once: Annotated[bool, typer.Option("--once", help="Show how it stands, and return.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
    web: Annotated[
        bool,
        typer.Option("--web", help="Show the report, live, in a browser on this machine."),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for --web; 0 is any that is free.")
    ] = 0,
) -> None:
    """Show the progress of a run, a sweep or an arena, wherever it runs, until it ends."""
    with clear_errors():
        if web:
            say_loading(run_directory.resolve().name, console, "PyTorch")
            from atoll.platform.cli.live_page.serving import serve

            log_to_terminal("info")
            serve(run_directory, console, port=port, every=every)
            return
        from atoll.platform.cli.watching.watch import watch as watch_directory

        log_to_terminal("info")
        watch_directory(run_directory, console, once=once, every=every)


def report(
    run_directory: Annotated[Path, typer.Argument(help="A run directory, finished or not.")],
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Write a run's report again and show its main figures."""
    with clear_errors():
        from rich.markup import escape
        from rich.table import Table

        from atoll.platform.reports import tables
        from atoll.platform.reports.run_report import headline, write_report

        form = form_of(latex=latex, csv=csv)
        log_to_terminal("info")
        path = write_report(run_directory)
        if form != "text":
            figures: list[list[tables.Cell]] = [
                [name, value] for name, value in headline(run_directory).items()
            ]
            print_tables([tables.Table(str(run_directory), ["figure", "value"], figures)], form)
            return
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in headline(run_directory).items():
            table.add_row(escape(name), escape(value))
        console.print(table)
        console.print(f"report: {path}", soft_wrap=True)
