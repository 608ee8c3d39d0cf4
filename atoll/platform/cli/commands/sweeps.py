"""``atoll sweep``, ``arena`` and ``submit``: many runs, or runs elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.platform.cli.durations import seconds_of
from atoll.platform.cli.output.printed_tables import CsvOption, LatexOption, form_of, print_tables
from atoll.platform.cli.terminal import (
    INTERRUPTED,
    SetOption,
    TrustOption,
    WorkersOption,
    clear_errors,
    console,
    errors,
    log_to_terminal,
    quiet_flower,
    say_loading,
    settings_of,
)
from atoll.user_code.trust import importing_only, uses_in

if TYPE_CHECKING:
    from atoll.platform.sweeps.sweep_plan import Sweep

BudgetOption = Annotated[
    str | None,
    typer.Option(
        help="Stop after this time (45m, 2h) with the results of what has ended; the same command "
        "continues from there."
    ),
]


def sweep(
    file: Annotated[Path, typer.Argument(help="An experiment file with a section [sweep].")],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sweep directory; by default run.out/run.name."),
    ] = None,
    budget: BudgetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trials only; no code is imported.")
    ] = False,
    trust_code: TrustOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Run a grid of experiments, or what is missing of it, and show the table of results."""
    directories: list[Path] = []
    with clear_errors(lambda: directories[0] if directories else None, "sweep.toml"):
        form = form_of(latex=latex, csv=csv)
        # What is written to a file or a pipe are the tables alone.
        told = console if form == "text" else errors
        seconds = seconds_of(budget, "--budget")
        if not dry_run:
            say_loading(file.name, told)
        from atoll.platform.sweeps.sweep_plan import load_sweep

        settings = settings_of(overrides, workers)
        log_to_terminal("info")
        quiet_flower()
        with importing(dry_run=dry_run and not trust_code):
            planned = load_sweep(file, settings)
        if dry_run:
            for trial in planned.trials:
                for_validation = " (for validation)" if trial.is_validation else ""
                console.print(f"{trial.key}  {trial}{for_validation}", soft_wrap=True, markup=False)
            _show_code(planned)
            return
        from atoll.platform.cli.output.sweep_progress import SweepProgress
        from atoll.platform.sweeps.sweep import run_sweep, sweep_directory

        directories.append(sweep_directory(planned, out))
        with SweepProgress(told, directories[0]) as progress:
            result = run_sweep(
                planned,
                directories[0],
                budget=seconds,
                on_start=progress.on_start,
                on_end=progress.on_end,
            )
        if form == "text":
            console.print(result.tables, soft_wrap=True)
        else:
            print_tables(result.printed, form)
        told.print(f"tables: {result.directory / 'results.md'}", soft_wrap=True)
        if result.left:
            told.print(
                f"the budget of {budget} is spent; left: {result.left} trials; the same command "
                "continues",
                soft_wrap=True,
            )
        if result.failed:
            errors.print(
                f"{len(result.failed)} trials failed; 'atoll sweep' again tries them again"
            )
            raise typer.Exit(1)


def arena(
    file: Annotated[
        Path, typer.Argument(help="An experiment file with sections [capture] and [arena].")
    ],
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The arena directory; by default run.out/run.name.")
    ] = None,
    budget: BudgetOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the federations only; no code is imported."),
    ] = False,
    trust_code: TrustOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Run attacks on defended federations, or what is missing of it, and write the report."""
    directories: list[Path] = []
    with clear_errors(lambda: directories[0] if directories else None, "arena.toml"):
        form = form_of(latex=latex, csv=csv)
        told = console if form == "text" else errors
        seconds = seconds_of(budget, "--budget")
        if not dry_run:
            say_loading(file.name, told)
        from atoll.platform.arenas.arena_plan import load_arena

        log_to_terminal("info")
        quiet_flower()
        with importing(dry_run=dry_run and not trust_code):
            planned = load_arena(file, list(overrides or []))
        if dry_run:
            for trial in planned.federations.trials:
                console.print(f"{trial.key}  {trial}", soft_wrap=True, markup=False)
            _show_code(planned.federations, planned.settings.attacks)
            return
        from atoll.platform.arenas.arena import arena_directory, run_arena
        from atoll.platform.cli.output.arena_progress import ArenaProgress
        from atoll.platform.results.pictures import arena_tables

        directories.append(arena_directory(planned, out))
        progress = ArenaProgress(told)
        result = run_arena(
            planned,
            directories[0],
            budget=seconds,
            on_federation=progress.on_federation,
            on_job=progress.on_job,
            trust_code=trust_code,
        )
        if form != "text":
            print_tables(arena_tables(result.directory), form)
        told.print(f"report: {result.report}", soft_wrap=True)
        if result.federations_left or result.attacks_left:
            told.print(
                f"the budget of {budget} is spent; left: {result.federations_left} federations, "
                f"and {result.attacks_left} attacks on the ended ones; the same command continues",
                soft_wrap=True,
            )
        if result.failed:
            for part, reason in result.failed.items():
                errors.print(f"failed: {part}: {reason}", soft_wrap=True)
            errors.print("'atoll arena' again tries what failed again")
            raise typer.Exit(1)


def _show_code(planned: Sweep, attacks: Mapping[str, Any] | None = None) -> None:
    """Say what a run would import beyond Atoll's own."""
    uses = [use for trial in planned.trials for use in uses_in(trial.experiment.to_dict())]
    uses += uses_in({"arena": {"attacks": attacks or {}}})
    for use in dict.fromkeys(map(str, uses)):
        console.print(f"would import or reach: {use}", soft_wrap=True, markup=False)


@contextmanager
def importing(*, dry_run: bool) -> Iterator[None]:
    """Import no code beyond Atoll's own within this context, if it is a dry run."""
    with importing_only(()) if dry_run else nullcontext():
        yield


def submit(
    file: Annotated[Path, typer.Argument(help="An experiment or sweep file.")],
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS", help="The head's dashboard, http://HEAD:8265."
        ),
    ],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run directory, an absolute path that the cluster shares; by default "
            "run.out/run.name. If a run is in it already, that continues."
        ),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option(help="The folder that is sent to the cluster; the file is in it.")
    ] = Path(),
    runtime_env: Annotated[
        Path | None, typer.Option(help="A Ray runtime environment (YAML).")
    ] = None,
    python: Annotated[str, typer.Option(help="The interpreter on the cluster.")] = "python",
    submission_id: Annotated[
        str | None, typer.Option(help="The job's id; by default Ray's choice.")
    ] = None,
    entrypoint_num_cpus: Annotated[
        float | None, typer.Option(min=0.0, help="CPUs that the run's driver takes.")
    ] = None,
    entrypoint_num_gpus: Annotated[
        float | None, typer.Option(min=0.0, help="GPUs that the run's driver takes.")
    ] = None,
    entrypoint_memory: Annotated[
        int | None, typer.Option(min=1, help="Bytes of memory that the run's driver takes.")
    ] = None,
    entrypoint_resources: Annotated[
        str | None, typer.Option(metavar="JSON", help="Other resources that the driver takes.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the job is submitted.")
    ] = False,
) -> None:
    """Run an experiment or a sweep as a Ray job, and follow its log."""
    with clear_errors():
        from atoll.platform.cli import submission

        log_to_terminal("info")
        settings = settings_of(overrides, workers)
        what = submission.Submission(
            file,
            out=out,
            overrides=settings,
            working_dir=working_dir,
            runtime_env=runtime_env,
            python=python,
            submission_id=submission_id,
            resources=submission.entrypoint_resources(
                entrypoint_num_cpus, entrypoint_num_gpus, entrypoint_memory, entrypoint_resources
            ),
        )
        what.entrypoint()
        jobs = submission.RayJobs(address)
        job = jobs.submit(what)
        console.print(f"job {job}", soft_wrap=True)
        if detach:
            return
        try:
            code = jobs.follow(job, lambda text: console.out(text, end="", highlight=False))
        except KeyboardInterrupt:
            errors.print(f"the job continues; stop it with: ray job stop --address {address} {job}")
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(code)
