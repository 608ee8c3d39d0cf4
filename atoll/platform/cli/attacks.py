"""``atoll attack``, ``audit``, ``membership``, ``labels``, ``doctor``, ``train-...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atoll.errors import InvalidExperimentError
from atoll.platform.cli.completion import complete_attack
from atoll.platform.cli.printed_tables import CsvOption, LatexOption, form_of, print_tables
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
        from atoll.platform.attack_runs.attack_run import (
            parse_settings,
            plain_table_of,
            run_attack,
        )
        from atoll.platform.cli.attack_table import AttackProgress, table_of
        from atoll.platform.reports.attack_report import PAGE

        form = form_of(latex=latex, csv=csv)
        told = console if form == "text" else errors
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
        from atoll.platform.config.experiment import load_experiment

        form = form_of(latex=latex, csv=csv)
        experiment = load_experiment(file, settings_of(overrides, workers))
        say_loading(experiment.run.name)
        from atoll.platform.attack_runs.audit_run import run_audit

        log_to_terminal(experiment.log.level)
        quiet_flower()
        observers = console_observers(directories, progress=experiment.log.progress)
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
        from atoll.platform.attack_runs.label_counts import run_labels

        form = form_of(latex=latex, csv=csv)
        log_to_terminal("info")
        result = run_labels(run_directory, public=public, out=out, ask=who_is_trusted(trust_code))
        if form == "text":
            console.print(result.table())
        else:
            print_tables([result.plain_table()], form)
        told = console if form == "text" else errors
        told.print(f"rows: {result.directory}", soft_wrap=True)


def membership(
    run_directory: Annotated[
        Path, typer.Argument(help="The directory of a run whose experiment has [capture].")
    ],
    candidates: Annotated[
        int, typer.Option(min=2, help="Members of each client that are asked about, at most.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Draws the candidates.")] = 0,
    out: RowsOption = None,
    trust_code: TrustOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Tell clients' examples from others by a run's captures, and show how well it worked."""
    with clear_errors():
        from atoll.platform.attack_runs.membership_run import run_membership

        form = form_of(latex=latex, csv=csv)
        log_to_terminal("info")
        result = run_membership(
            run_directory,
            candidates=candidates,
            seed=seed,
            out=out,
            ask=who_is_trusted(trust_code),
        )
        print_tables([result.table()], form)
        told = console if form == "text" else errors
        told.print(f"rows: {result.directory}", soft_wrap=True)


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
    with clear_errors():
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
    dataset: Annotated[str, typer.Argument(help="A data set ('atoll list datasets').")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    kind: Annotated[
        str, typer.Option(help="lpn (learned proximal network) or diffusion (score network).")
    ] = "lpn",
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
    """Train a prior of a data set's images, for attacks with a setting 'prior'."""
    with clear_errors():
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
