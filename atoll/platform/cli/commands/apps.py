"""``atoll flower`` and ``atoll data get``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from atoll.platform.cli.completion import complete_dataset
from atoll.platform.cli.terminal import (
    OutOption,
    WorkersOption,
    clear_errors,
    console,
    console_observers,
    log_to_terminal,
    say_loading,
)


def flower(
    app_dir: Annotated[Path, typer.Argument(help="A Flower app (a folder with pyproject.toml).")],
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="Overrides as 'flwr run' takes them."),
    ] = None,
    num_supernodes: Annotated[
        int | None,
        typer.Option(min=1, help="Nodes; by default what the app or Flower's settings say."),
    ] = None,
    federation_config: Annotated[
        list[str] | None,
        typer.Option("--federation-config", help="Overrides as 'flwr run' takes them."),
    ] = None,
    workers: WorkersOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds sampling and every client.")] = 0,
    out: OutOption = None,
    client_timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds that one client may take.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(min=0.0, help="GPU share a worker; by default as many workers as fit."),
    ] = None,
    check_replies: Annotated[
        bool,
        typer.Option(
            "--check-replies",
            help="Refuse replies with other keys, shapes or dtypes than were sent, or NaN.",
        ),
    ] = False,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rounds between checkpoints, for 'atoll resume'; none by default."
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html; 'atoll report' can at any time.")
    ] = False,
) -> None:
    """Run any Flower app on this engine, unmodified."""
    directories: list[Path] = []
    with clear_errors(lambda: directories[0] if directories else None):
        say_loading(app_dir.resolve().name)
        from atoll.platform.runs.apps.app_run import TABLE, AppRun, run_flower_app
        from atoll.user_code.trust import note, uses_in

        log_to_terminal("info")
        settings = AppRun(
            app_dir=str(app_dir.resolve()),
            run_config=list(run_config or []),
            num_supernodes=num_supernodes,
            federation_config=list(federation_config or []),
            workers=workers or "auto",
            seed=seed,
            client_timeout=client_timeout,
            gpus_per_worker="auto" if gpus_per_worker is None else gpus_per_worker,
            check_replies=check_replies,
            checkpoint_every=checkpoint_every,
            report=report,
        )
        config = {TABLE: {k: v for k, v in asdict(settings).items() if v is not None}}
        note(uses_in(config))
        run_flower_app(settings, out=out, observers=console_observers(directories, lines=False))


def data_get(
    name: Annotated[
        str,
        typer.Argument(
            help="A data set ('atoll list datasets'), or module:callable.",
            autocompletion=complete_dataset,
        ),
    ],
    path: Annotated[
        Path | None, typer.Option(help="A folder with its files, in place of a download.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Of [data.options]; repeatable."),
    ] = None,
) -> None:
    """Fetch a data set into the cache and verify it."""
    with clear_errors():
        say_loading(name, console, "PyTorch")
        from atoll.clients.data.catalog.loading import load_dataset
        from atoll.platform.cli.output.plan import predicted

        log_to_terminal("info")
        dataset = load_dataset(name, path, _options(options or []))
        domains = f", domains {', '.join(dataset.domains)}" if dataset.domains else ""
        console.print(
            f"{dataset.name}: {len(dataset.train):,} + {len(dataset.test):,} "
            f"{dataset.inputs.described}, {predicted(dataset)}{domains}"
        )
        console.print(f"in {dataset.directory}")


def _options(given: list[str]) -> dict[str, Any]:
    from atoll.errors import InvalidExperimentError
    from atoll.platform.config.experiment import parse_value

    pairs = [option.partition("=") for option in given]
    for key, separator, _ in pairs:
        if not (key and separator):
            raise InvalidExperimentError(f"--option {key!r}: expected KEY=VALUE, preset=tiny say")
    return {key.strip(): parse_value(value.strip()) for key, _, value in pairs}
