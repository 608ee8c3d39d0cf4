"""``atoll attack``, ``audit``, ``membership``, ``labels``, ``doctor``, ``train-...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atoll.errors import InvalidExperimentError
from atoll.platform.cli.completion import complete_attack
from atoll.platform.cli.output.printed_tables import CsvOption, LatexOption, form_of, print_tables
from atoll.platform.cli.terminal import (
    OutOption,
    SetOption,
    TrustOption,
    WorkersOption,
    clear_errors,
    console,
    console_observers,
    errors,
    log_to_terminal,
    quiet_flower,
    say_loading,
    settings_of,
    who_is_trusted,
)
from atoll.platform.cli.training_options import (
    DatasetArgument,
    FilesOption,
    SeedOption,
    SplitOption,
    ThreadsOption,
    TrainingOption,
)

RowsOption = Annotated[
    Path | None, typer.Option(help="Where the rows go; by default in RUN_DIR/attacks.")
]


def attack(
    run_directory: Annotated[
        Path, typer.Argument(help="The directory of a run whose experiment has [capture].")
    ],
    name: Annotated[
        str,
        typer.Option(
            "--attack", help="An attack ('atoll list attacks').", autocompletion=complete_attack
        ),
    ],
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
    trust_code: TrustOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Reconstruct clients' images from a run's captures, and show how well it worked."""
    with clear_errors():
        form = form_of(latex=latex, csv=csv)
        told = console if form == "text" else errors
        say_loading(run_directory.resolve().name, told, "PyTorch")
        from atoll.platform.attack_runs.attack_run import (
            parse_settings,
            plain_table_of,
            run_attack,
        )
        from atoll.platform.cli.output.attack_table import AttackProgress, table_of
        from atoll.platform.reports.attack_report import PAGE

        log_to_terminal("info")
        with AttackProgress(told) as progress:
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
                ask=who_is_trusted(trust_code),
            )
        if form == "text":
            console.print(table_of(result))
        else:
            print_tables([plain_table_of(result)], form)
        told.print(f"rows and pictures: {result.directory}", soft_wrap=True)
        told.print(f"page: {result.directory / PAGE}", soft_wrap=True)


def audit(
    file: Annotated[Path, typer.Argument(help="An experiment file with [audit].")],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    out: OutOption = None,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Run an experiment with canaries, and compare the epsilon that is claimed with a bound."""
    directories: list[Path] = []
    with clear_errors(lambda: directories[0] if directories else None):
        form = form_of(latex=latex, csv=csv)
        # What is written to a file or a pipe is the table alone.
        told = console if form == "text" else errors
        if file.is_file():
            say_loading(file.name, told)
        from atoll.platform.config.experiment import load_experiment

        experiment = load_experiment(file, settings_of(overrides, workers))
        from atoll.platform.attack_runs.audit_run import run_audit

        log_to_terminal(experiment.log.level)
        quiet_flower()
        observers = console_observers(directories, progress=experiment.log.progress, told=told)
        result = run_audit(experiment, out=out, observers=observers)
        print_tables([result.table()], form)
        if result.is_refuted:
            raise typer.Exit(1)


def doctor(
    capture: Annotated[Path, typer.Argument(help="A folder in RUN_DIR/captures.")],
    trust_code: TrustOption = False,
) -> None:
    """Replay a captured client's true batches, and say whether the capture is consistent."""
    with clear_errors():
        say_loading(capture.resolve().name, console, "PyTorch")
        from atoll.attacks.capture_validation.replay import diagnose_capture

        log_to_terminal("info")
        found = diagnose_capture(capture, who_is_trusted(trust_code))
        console.print(
            f"cosine {found.cosine:.9f}, ratio of norms {found.norm_ratio:.6f}: "
            f"{found.advice if found.cause is None else f'{found.cause}: {found.advice}'}",
            soft_wrap=True,
        )
        if not found.consistent:
            raise typer.Exit(1)


def labels(
    run_directory: Annotated[
        Path, typer.Argument(help="A run with [capture] and a strategy that aligns domains.")
    ],
    public: Annotated[
        bool, typer.Option(help="Whether the attacker has public images (half the test images).")
    ] = False,
    out: RowsOption = None,
    trust_code: TrustOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Count clients' labels from the head gradients that an alignment strategy asked for."""
    with clear_errors():
        form = form_of(latex=latex, csv=csv)
        told = console if form == "text" else errors
        say_loading(run_directory.resolve().name, told, "PyTorch")
        from atoll.platform.attack_runs.label_counts import run_labels

        log_to_terminal("info")
        result = run_labels(run_directory, public=public, out=out, ask=who_is_trusted(trust_code))
        if form == "text":
            console.print(result.table())
        else:
            print_tables([result.plain_table()], form)
        told.print(f"rows: {result.directory}", soft_wrap=True)


def membership(
    run_directory: Annotated[
        Path, typer.Argument(help="The directory of a run whose experiment has [capture].")
    ],
    candidates: Annotated[
        int, typer.Option(min=2, help="Members of each client that are asked about, at most.")
    ] = 200,
    same_classes: Annotated[
        bool, typer.Option(help="Ask about others of the classes of the members.")
    ] = False,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="lira or rmia, with shadow federations; active: a malicious server; repeatable."
        ),
    ] = None,
    shadows: Annotated[int, typer.Option(min=4, help="Shadow federations, an even number.")] = 64,
    variance: Annotated[
        str, typer.Option(help="LiRA's: example, fixed, or auto (fixed below 64 shadows).")
    ] = "auto",
    rmia_a: Annotated[float, typer.Option(min=0.0, max=1.0, help="RMIA's a.")] = 0.3,
    rmia_gamma: Annotated[float, typer.Option(min=1.0, help="RMIA's gamma.")] = 1.0,
    ascent: Annotated[
        float,
        typer.Option(
            min=0.0, max=10.0, help="How far the active server moves the model, by its norm."
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Draws the candidates, and the shadow federations.")
    ] = 0,
    out: RowsOption = None,
    trust_code: TrustOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Tell clients' examples from others by a run's captures, and show how well it worked."""
    with clear_errors():
        form = form_of(latex=latex, csv=csv)
        told = console if form == "text" else errors
        say_loading(run_directory.resolve().name, told, "PyTorch")
        from atoll.platform.attack_runs.membership_run import run_membership
        from atoll.platform.attack_runs.shadows.shadow_attacks import ShadowSettings
        from atoll.platform.cli.output.attack_table import AttackProgress
        from atoll.platform.reports.membership_report import PAGE

        log_to_terminal("info")
        with AttackProgress(told, "shadow federations", "") as progress:
            result = run_membership(
                run_directory,
                attack=[
                    _one_of(name, ("lira", "rmia", "active"), "--attack") for name in attack or ()
                ],
                shadows=ShadowSettings(
                    shadows,
                    _one_of(variance, ("auto", "example", "fixed"), "--variance"),
                    rmia_a,
                    rmia_gamma,
                ),
                ascent=ascent,
                candidates=candidates,
                same_classes=same_classes,
                seed=seed,
                out=out,
                progress=progress,
                ask=who_is_trusted(trust_code),
            )
        print_tables([result.table()], form)
        told.print(f"rows: {result.directory}", soft_wrap=True)
        told.print(f"page: {result.directory / PAGE}", soft_wrap=True)


def train_generator(
    dataset: DatasetArgument,
    path: FilesOption = None,
    split: SplitOption = "test",
    settings: TrainingOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
) -> None:
    """Train the generator of a data set, for attacks that need one; it is kept in the cache."""
    with clear_errors():
        say_loading(dataset, console, "PyTorch")
        from atoll.platform.attack_runs.generator_training import run_training

        log_to_terminal("info")
        run_training(
            dataset,
            path,
            _one_of(split, ("test", "train"), "--split"),
            settings or (),
            seed=seed,
            threads=threads,
            console=console,
        )


def train_prior(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    kind: Annotated[
        str, typer.Option(help="lpn (learned proximal network) or diffusion (score network).")
    ] = "lpn",
    path: FilesOption = None,
    split: SplitOption = "test",
    settings: TrainingOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
) -> None:
    """Train a prior of a data set's images, for attacks with a setting 'prior'."""
    with clear_errors():
        say_loading(dataset, console, "PyTorch")
        from atoll.platform.attack_runs.prior_training import run_prior_training

        log_to_terminal("info")
        run_prior_training(
            dataset,
            path,
            _one_of(kind, ("lpn", "diffusion"), "--kind"),
            _one_of(split, ("test", "train"), "--split"),
            settings or (),
            out,
            seed=seed,
            threads=threads,
            console=console,
        )


def _one_of(value: str, allowed: tuple[str, ...], option: str) -> Any:
    if value not in allowed:
        raise InvalidExperimentError(f"{option} {value}: expected {' or '.join(allowed)}")
    return value
