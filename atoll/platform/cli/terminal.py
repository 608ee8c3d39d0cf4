"""Shared parts of commands: the terminal, options, errors as lines, progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from atoll.credentials import HidingFormatter, without_credentials
from atoll.errors import AtollError
from atoll.lazy import LazyObject
from atoll.platform.cli.completion import complete_setting
from atoll.user_code.trust import Ask, CodeUse, refuse, trust

if TYPE_CHECKING:
    from rich.console import Console

    from atoll.platform.callbacks.observers import Observer

INTERRUPTED = 130


class LazyConsole(LazyObject):
    """A console that is made at its first use.

    Help and completion print without Rich, which takes as long to load as all else of theirs.

    Parameters
    ----------
    **settings : Any
        Of ``rich.console.Console``.
    """

    def __init__(self, **settings: Any) -> None:
        def make() -> Console:
            from rich.console import Console

            return Console(**settings)

        super().__init__(make)

    def __enter__(self) -> Any:
        return self._made().__enter__()

    def __exit__(self, *error: object) -> None:
        self._made().__exit__(*error)


console = cast("Console", LazyConsole(highlight=False))
errors = cast("Console", LazyConsole(stderr=True, highlight=False, soft_wrap=True))

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override section.key=value; may be repeated.",
        autocompletion=complete_setting,
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Worker processes; by default what the cluster holds.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="The run directory; by default a new one below run.out.")
]


TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Import code that the files name, beyond Atoll's own and yours."
    ),
]


def who_is_trusted(trust_code: bool) -> Ask:
    """Return the question before another person's code is imported: the option, or a prompt."""
    if trust_code:
        return trust
    return _ask if sys.stdin.isatty() and errors.is_terminal else refuse


def _ask(uses: Sequence[CodeUse]) -> bool:
    errors.print("the files name code that is not Atoll's and not known to be yours:")
    for use in uses:
        errors.print(f"  {_escaped(str(use))}, in {_escaped(use.table)}")
    return typer.confirm("import it?", default=False, err=True)


@contextmanager
def clear_errors(
    directory: Callable[[], Path | None] = lambda: None, config: str = "config.toml"
) -> Iterator[None]:
    """Print a user's errors as lines, without a traceback, and exit with their code."""
    try:
        yield
    except AtollError as error:
        for line in str(error).splitlines():
            errors.print(f"[bold red]error:[/bold red] {_escaped(without_credentials(line))}")
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        # A disk, a permission, a connection: of the machine, not of the program.
        errors.print(f"[bold red]error:[/bold red] {_escaped(_of_the_machine(error))}")
        raise typer.Exit(AtollError.exit_code) from None
    except KeyboardInterrupt:
        where = directory()
        if where is not None and (where / config).is_file():
            is_run = config == "config.toml"
            again = f"atoll resume {where}" if is_run else "the same command"
            errors.print(f"interrupted; to continue: {_escaped(again)}")
        else:
            errors.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def _of_the_machine(error: OSError) -> str:
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error or type(error).__name__}"


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def say_loading(
    name: str, told: Console = console, libraries: str = "PyTorch, Flower and Ray"
) -> None:
    """Say that a command begins, before the libraries that it needs are imported: seconds."""
    line = f"{name}: loading {libraries}"
    told.print(line, style="dim", soft_wrap=True, markup=False)


def log_to_terminal(level: str) -> None:
    """Send Atoll's log to the terminal, from a level ("debug", "info", ...) on."""
    from rich.logging import RichHandler

    # On a terminal the log and the bar are one console's, which prints the one above the other.
    is_shared = console.is_terminal and errors.is_terminal
    handler = RichHandler(
        console=console if is_shared else errors, show_path=False, show_time=False, markup=False
    )
    handler.setFormatter(HidingFormatter("%(message)s"))
    logger = logging.getLogger("atoll")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def settings_of(overrides: list[str] | None, workers: int | None) -> list[str]:
    """Return what ``--set`` and ``--workers`` say, as ``section.key=value``."""
    asked = [] if workers is None else [f"ray.workers={workers}"]
    return [*(overrides or []), *asked]


def console_observers(
    directories: list[Path],
    *,
    progress: bool = True,
    lines: bool = True,
    told: Console = console,
) -> Callable[[Path], list[Observer]]:
    """Return what makes a run's progress; the run's directory is added to ``directories``.

    Parameters
    ----------
    directories : list[Path]
        Is told of the run's directory.
    progress : bool
        Whether rounds are shown.
    lines : bool
        Whether there is a line a round where there is no terminal.
    told : Console
        Where it is shown.
    """

    def make(directory: Path) -> list[Observer]:
        from atoll.platform.cli.output.progress import ConsoleProgress

        directories.append(directory)
        return [ConsoleProgress(told, live=progress, lines=lines)]

    return make


def quiet_flower() -> None:
    """Our progress shows the rounds; Flower's own lines would say it all twice."""
    from atoll import flower

    flower.log_errors_only()
