"""The command line: ``atoll run``, ``sweep``, ``resume``, ``report``, ``list``, ..."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from atoll.errors import AtollError, InvalidExperimentError

if TYPE_CHECKING:
    from atoll.platform.observers import Observer

application = typer.Typer(
    name="atoll",
    help="Federated learning on Ray and Flower: run, resume and report federations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_commands = typer.Typer(help="Data sets.", no_args_is_help=True)
application.add_typer(data_commands, name="data")

INTERRUPTED = 130
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override section.key=value; may be repeated."),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Worker processes; by default what the cluster holds.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="The run directory; by default a new one below run.out.")
]


@contextmanager
def _clear_errors(
    directory: Callable[[], Path | None] = lambda: None, config: str = "config.toml"
) -> Iterator[None]:
    """Print a user's errors as lines, without a traceback, and exit with their code."""
    try:
        yield
    except AtollError as error:
        for line in str(error).splitlines():
            errors.print(f"[bold red]error:[/bold red] {_escaped(line)}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        where = directory()
        if where is not None and (where / config).is_file():
            is_run = config == "config.toml"
            again = f"atoll resume {where}" if is_run else "the same command"
            errors.print(f"interrupted; go on with: {again}")
        else:
            errors.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _log_to_terminal(level: str) -> None:
    handler = RichHandler(console=errors, show_path=False, show_time=False, markup=False)
    logger = logging.getLogger("atoll")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def _observers(progress: bool, directories: list[Path]) -> Callable[[Path], list[Observer]]:
    def make(directory: Path) -> list[Observer]:
        from atoll.platform.progress import ConsoleProgress

        directories.append(directory)
        return [ConsoleProgress(console, live=progress)]

    return make


@application.command()
def run(
    file: Annotated[Path, typer.Argument(help="The experiment file (TOML).")],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    out: OutOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run that is in the run directory, if one is. Without --out, the "
            "run directory is run.out/run.name then.",
        ),
    ] = False,
) -> None:
    """Run an experiment."""
    directories: list[Path] = []
    with _clear_errors(lambda: directories[0] if directories else None):
        from atoll.platform.experiment import load_experiment
        from atoll.platform.federation import run as run_experiment

        settings = list(overrides or [])
        if workers is not None:
            settings.append(f"ray.workers={workers}")
        experiment = load_experiment(file, settings)
        _log_to_terminal(experiment.log.level)
        _quiet_flower()
        observers = _observers(experiment.log.progress, directories)
        run_experiment(experiment, out=out, resume=resume, observers=observers)


@application.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="An experiment file with a section [sweep].")],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sweep directory; by default run.out/run.name."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials only.")] = False,
) -> None:
    """Run a grid of experiments, or what is missing of it, and show the table of results."""
    directories: list[Path] = []
    with _clear_errors(lambda: directories[0] if directories else None, "sweep.toml"):
        from atoll.platform.sweep_plan import load_sweep

        settings = list(overrides or [])
        if workers is not None:
            settings.append(f"ray.workers={workers}")
        _log_to_terminal("info")
        _quiet_flower()
        planned = load_sweep(file, settings)
        if dry_run:
            for trial in planned.trials:
                for_validation = " (for validation)" if trial.is_validation else ""
                console.print(f"{trial.key}  {trial}{for_validation}", soft_wrap=True)
            return
        from atoll.platform.sweep import run_sweep, sweep_directory
        from atoll.platform.sweep_progress import SweepProgress

        directories.append(sweep_directory(planned, out))
        with SweepProgress(console, directories[0]) as progress:
            result = run_sweep(
                planned, directories[0], on_start=progress.on_start, on_end=progress.on_end
            )
        console.print(result.tables, soft_wrap=True)
        console.print(f"tables: {result.directory / 'results.md'}", soft_wrap=True)
        if result.failed:
            errors.print(
                f"{len(result.failed)} trials failed; 'atoll sweep' again tries them again"
            )
            raise typer.Exit(1)


@application.command()
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
            "run.out/run.name. If a run is in it already, that goes on."
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
    with _clear_errors():
        from atoll.platform import submission

        _log_to_terminal("info")
        settings = list(overrides or [])
        if workers is not None:
            settings.append(f"ray.workers={workers}")
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
            errors.print(f"the job goes on; stop it with: ray job stop --address {address} {job}")
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(code)


@application.command()
def resume(
    run_directory: Annotated[Path, typer.Argument(help="The directory of an interrupted run.")],
    workers: WorkersOption = None,
) -> None:
    """Go on with an interrupted run, to the same end."""
    with _clear_errors(lambda: run_directory):
        from atoll.platform.app_run import is_app_run, resume_app
        from atoll.platform.federation import resume as resume_run
        from atoll.platform.ledger import check_run_directory

        check_run_directory(run_directory)
        _log_to_terminal("info")
        observers = _observers(True, [])
        if is_app_run(run_directory):
            resume_app(run_directory, workers=workers, observers=observers)
        else:
            _quiet_flower()
            resume_run(run_directory, workers=workers, observers=observers)


@application.command()
def watch(
    run_directory: Annotated[Path, typer.Argument(help="A run's or a sweep's directory.")],
    once: Annotated[bool, typer.Option("--once", help="Show how it stands, and return.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
) -> None:
    """Show the progress of a run or a sweep, wherever it runs, until it ends."""
    with _clear_errors():
        from atoll.platform.watch import watch as watch_directory

        watch_directory(run_directory, console, once=once, every=every)


@application.command()
def report(
    run_directory: Annotated[Path, typer.Argument(help="A run directory, finished or not.")],
) -> None:
    """Write a run's report again and show its main figures."""
    with _clear_errors():
        from atoll.platform.report import headline, write_report

        path = write_report(run_directory)
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in headline(run_directory).items():
            table.add_row(name, value)
        console.print(table)
        console.print(f"report: {path}", soft_wrap=True)


@application.command("list")
def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="datasets, models, partitioners, strategies, mods, attacks or generators."
        ),
    ],
) -> None:
    """List the names that experiment files can use."""
    with _clear_errors():
        from atoll.platform.listing import describe

        table = Table(show_header=False, box=None, pad_edge=False)
        for name, about in describe(kind):
            table.add_row(name, about, style=None)
        console.print(table)


@application.command()
def attack(
    run_directory: Annotated[
        Path, typer.Argument(help="The directory of a run whose experiment has [capture].")
    ],
    name: Annotated[str, typer.Option("--attack", help="An attack ('atoll list attacks').")],
    victims: Annotated[
        list[str] | None,
        typer.Option("--victim", metavar="ROUND:NODE", help="Whom; by default all captured."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the attack; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the attack.")] = 0,
    batch_norm: Annotated[
        str, typer.Option(help="How BatchNorm runs at clients: train or eval.")
    ] = "train",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    lpips: Annotated[
        str | None,
        typer.Option(help="LPIPS's weights, or 'none'; by default they are fetched once."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where rows and pictures go; by default in RUN_DIR/attacks.")
    ] = None,
) -> None:
    """Reconstruct clients' images from a run's captures, and show how well it worked."""
    with _clear_errors():
        from atoll.platform.attack_run import parse_settings, run_attack
        from atoll.platform.attack_table import AttackProgress, table_of

        _log_to_terminal("info")
        with AttackProgress(console) as progress:
            result = run_attack(
                run_directory,
                name,
                victims=victims or (),
                settings=parse_settings(settings or ()),
                seed=seed,
                mode=_one_of(batch_norm, ("train", "eval"), "--batch-norm"),
                device=_one_of(device, ("cpu", "cuda"), "--device"),
                lpips=lpips != "none" if lpips in (None, "none") else Path(lpips),
                out=out,
                progress=progress,
            )
        console.print(table_of(result))
        console.print(f"rows and pictures: {result.directory}", soft_wrap=True)


@application.command()
def arena(
    file: Annotated[
        Path, typer.Argument(help="An experiment file with sections [capture] and [arena].")
    ],
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The arena directory; by default run.out/run.name.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the federations only.")] = False,
) -> None:
    """Run attacks on defended federations, or what is missing of it, and write the report."""
    directories: list[Path] = []
    with _clear_errors(lambda: directories[0] if directories else None, "arena.toml"):
        from atoll.platform.arena_plan import load_arena

        _log_to_terminal("info")
        _quiet_flower()
        planned = load_arena(file, list(overrides or []))
        if dry_run:
            for trial in planned.federations.trials:
                console.print(f"{trial.key}  {trial}", soft_wrap=True)
            return
        from atoll.platform.arena import arena_directory, run_arena
        from atoll.platform.arena_progress import ArenaProgress

        directories.append(arena_directory(planned, out))
        progress = ArenaProgress(console)
        result = run_arena(
            planned,
            directories[0],
            on_federation=progress.on_federation,
            on_job=progress.on_job,
        )
        console.print(f"report: {result.report}", soft_wrap=True)
        if result.failed:
            errors.print(f"{len(result.failed)} parts failed; 'atoll arena' again tries them again")
            raise typer.Exit(1)


@application.command()
def doctor(
    capture: Annotated[Path, typer.Argument(help="A folder in RUN_DIR/captures.")],
) -> None:
    """Replay a captured client's true batches, and say whether the capture is consistent."""
    with _clear_errors():
        from atoll.attacks.doctor import diagnose_capture

        found = diagnose_capture(capture)
        console.print(
            f"cosine {found.cosine:.9f}, ratio of norms {found.norm_ratio:.6f}: "
            f"{found.advice if found.cause is None else f'{found.cause}: {found.advice}'}",
            soft_wrap=True,
        )
        if not found.consistent:
            raise typer.Exit(1)


@application.command("train-generator")
def train_generator(
    dataset: Annotated[str, typer.Argument(help="A data set ('atoll list datasets').")],
    path: Annotated[
        Path | None, typer.Option(help="A folder with its files, in place of a download.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which examples it sees: test (clients have none of them) or train.")
    ] = "test",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="steps, width, ...; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the training.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2,
) -> None:
    """Train the generator of a data set, for attacks that need one; it is kept in the cache."""
    with _clear_errors():
        from atoll.platform.generator_run import run_training

        _log_to_terminal("info")
        run_training(
            dataset,
            path,
            _one_of(split, ("test", "train"), "--split"),
            settings or (),
            seed=seed,
            threads=threads,
            console=console,
        )


def _one_of(value: str, allowed: tuple[str, ...], option: str) -> Any:
    if value not in allowed:
        raise InvalidExperimentError(f"{option} {value}: expected {' or '.join(allowed)}")
    return value


@data_commands.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A data set ('atoll list datasets').")],
    path: Annotated[
        Path | None, typer.Option(help="A folder with its files, in place of a download.")
    ] = None,
) -> None:
    """Fetch a data set into the cache and verify it."""
    with _clear_errors():
        from atoll.clients.data.catalog import load_dataset

        _log_to_terminal("info")
        dataset = load_dataset(name, path)
        domains = f", domains {', '.join(dataset.domains)}" if dataset.domains else ""
        console.print(
            f"{dataset.name}: {len(dataset.train):,} + {len(dataset.test):,} images of "
            f"{'x'.join(map(str, dataset.image_shape))}, {len(dataset.classes)} classes{domains}"
        )
        console.print(f"in {dataset.directory}")


@application.command()
def flower(
    app_dir: Annotated[Path, typer.Argument(help="A Flower app (a folder with pyproject.toml).")],
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="Overrides as 'flwr run' takes them."),
    ] = None,
    num_supernodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes; by default what the app says, or 10.")
    ] = None,
    workers: WorkersOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds sampling and every client.")] = 0,
    out: OutOption = None,
    client_timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds that one client may take.")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(min=0.0, help="GPU share a worker.")] = 0.0,
) -> None:
    """Run any Flower app on this engine, unmodified."""
    directories: list[Path] = []
    with _clear_errors(lambda: directories[0] if directories else None):
        from atoll.platform.app_run import AppRun, run_flower_app

        _log_to_terminal("info")
        settings = AppRun(
            app_dir=str(app_dir.resolve()),
            run_config=list(run_config or []),
            num_supernodes=num_supernodes,
            workers=workers or "auto",
            seed=seed,
            client_timeout=client_timeout,
            gpus_per_worker=gpus_per_worker,
        )
        run_flower_app(settings, out=out, observers=_observers(True, directories))


def _quiet_flower() -> None:
    """Our progress shows the rounds; Flower's own lines would say it all twice."""
    # Flower sets the level when this is first imported, so that must be over.
    importlib.import_module("flwr.common.logger")
    logging.getLogger("flwr").setLevel(logging.ERROR)


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
