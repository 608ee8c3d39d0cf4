"""``atoll unlearn`` and ``unlearn-class``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.errors import InvalidExperimentError
from atoll.platform.cli.output.printed_tables import CsvOption, LatexOption, form_of, print_tables
from atoll.platform.cli.terminal import (
    TrustOption,
    WorkersOption,
    clear_errors,
    console,
    console_observers,
    errors,
    log_to_terminal,
    quiet_flower,
    say_loading,
    who_is_trusted,
)
from atoll.platform.cli.training_options import FilesOption, SeedOption, ThreadsOption

METHODS = ("retrain", "fine-tune", "gradient-ascent", "projected-ascent")


def unlearn(
    run_directory: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    client: Annotated[
        list[int],
        typer.Option("--client", min=1, metavar="NODE", help="Who leaves, from 1; repeatable."),
    ],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}.")],
    rounds: Annotated[
        int | None,
        typer.Option(
            min=0, help="Rounds of the others afterwards (3); of retrain, all rounds (the run's)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of [unlearn]; repeatable."),
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=2, help="Erased examples that membership is asked of, at most.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Draws these; the run has its own.")] = 0,
    workers: WorkersOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory; by default a new one beside RUN_DIR.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that is in --out, if one is.")
    ] = False,
    trust_code: TrustOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Undo clients' part in a run's model, and show what it still tells of their examples."""
    directories: list[Path] = []
    with clear_errors(lambda: directories[0] if directories else None):
        form = form_of(latex=latex, csv=csv)
        if method not in METHODS:
            raise InvalidExperimentError(f"--method {method}: expected {', '.join(METHODS)}")
        told = console if form == "text" else errors
        say_loading(run_directory.resolve().name, told)
        from atoll.platform.attack_runs.attack_run import parse_settings
        from atoll.platform.unlearning.unlearning_run import UNLEARNING, run_unlearning

        log_to_terminal("info")
        quiet_flower()
        result = run_unlearning(
            run_directory,
            client,
            method,
            rounds=rounds,
            settings=parse_settings(settings or ()),
            candidates=candidates,
            seed=seed,
            out=out,
            resume=resume,
            workers=workers,
            observers=console_observers(directories, told=told),
            ask=who_is_trusted(trust_code),
        )
        print_tables([result.table()], form)
        told.print(f"figures: {result.directory / UNLEARNING}", soft_wrap=True)


def unlearn_class(
    generator: Annotated[
        str, typer.Argument(help="A data set with a trained generator, or a generator's folder.")
    ],
    undesired: Annotated[
        str, typer.Option("--class", metavar="CLASS", help="Its name, or its number from 0.")
    ],
    out: Annotated[Path, typer.Option(help="The new generator's folder.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="repulsion, gamma, steps, ...; may be repeated."
        ),
    ] = None,
    path: FilesOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Remove a class from a trained generator (Adapt-then-Unlearn), and judge its samples."""
    with clear_errors():
        form = form_of(latex=latex, csv=csv)
        told = console if form == "text" else errors
        say_loading(generator, told, "PyTorch")
        from atoll.platform.unlearning.class_unlearning_run import run_class_unlearning

        log_to_terminal("info")
        result = run_class_unlearning(
            generator,
            undesired,
            out,
            settings or (),
            path=path,
            seed=seed,
            threads=threads,
            console=told,
        )
        print_tables([result.table()], form)
        told.print(f"generator: {result.folder}", soft_wrap=True)
