"""Any Flower app directory, run on our engine without a change.

``atoll flower APP_DIR`` reads the app's ``pyproject.toml`` as ``flwr run`` does: the components,
the run config and its overrides in Flower's own syntax.
"""

from __future__ import annotations

import sys
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from flwr.app import ArrayRecord, ConfigRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from atoll import flower
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.flower.app_files import flatten_dict, fuse_dicts, parse_config_args
from atoll.platform.grid.exchange.dispatch import ExchangeReport
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.client_failures import ClientFailures
from atoll.platform.rounds.round_loop import EvaluateFunction, run_rounds
from atoll.platform.rounds.round_records import round_record
from atoll.platform.run_directory.interrupts import terminated_as_interrupt
from atoll.platform.runs.session import Session
from atoll.registry import import_attribute


@dataclass(frozen=True)
class FlowerApp:
    """A Flower app as its directory describes it.

    Attributes
    ----------
    directory : Path
        Where its ``pyproject.toml`` is.
    name : str
        The project's name.
    server_app, client_app : str
        ``module:attribute`` of its components.
    run_config : dict
        The run config, overrides merged in.
    overrides : dict
        The overrides alone.
    num_supernodes : int or None
        The number of nodes that its default federation asks for (a table that older apps have).
    publisher, version : str
        Who has published it, and its version.
    """

    directory: Path
    name: str
    server_app: str
    client_app: str
    run_config: dict[str, Any]
    overrides: dict[str, Any]
    num_supernodes: int | None
    publisher: str
    version: str


def read_app(directory: Path, overrides: Sequence[str] = ()) -> FlowerApp:
    """Read an app directory.

    Parameters
    ----------
    directory : Path
        A directory with a ``pyproject.toml`` that has ``[tool.flwr.app]``.
    overrides : Sequence[str]
        As ``flwr run --run-config`` takes them: ``"key=value key2=value2"`` or a TOML file.

    Raises
    ------
    InvalidExperimentError
        If the directory is not a Flower app, or an override has a key that the app does not.
    """
    project = _read_project(directory)
    app = project.get("tool", {}).get("flwr", {}).get("app")
    if app is None:
        raise InvalidExperimentError(
            f"{directory / 'pyproject.toml'}: has no [tool.flwr.app]; expected a Flower app"
        )
    components = app.get("components", {})
    for name in ("serverapp", "clientapp"):
        if ":" not in str(components.get(name, "")):
            raise InvalidExperimentError(
                f"{directory / 'pyproject.toml'}: tool.flwr.app.components.{name} = "
                f"{components.get(name)!r}; expected 'module:attribute'"
            )
    about = project.get("project", {})
    config = flatten_dict(app.get("config", {}))
    changes = _parsed(config, overrides)
    return FlowerApp(
        directory=directory.resolve(),
        name=about.get("name", directory.resolve().name),
        server_app=components["serverapp"],
        client_app=components["clientapp"],
        run_config=dict(fuse_dicts(config, changes)),
        overrides=changes,
        num_supernodes=_supernodes(project["tool"]["flwr"]),
        publisher=str(app.get("publisher", "")),
        version=str(about.get("version", "")),
    )


def _read_project(directory: Path) -> dict[str, Any]:
    path = directory / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise InvalidExperimentError(f"{path}: no such file; expected a Flower app") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidExperimentError(f"{path}: cannot be read ({error})") from error


def _parsed(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return what overrides change of an app's run config."""
    try:
        changes = dict(parse_config_args(list(overrides)))
    except (click.ClickException, ValueError, OSError) as error:
        message = error.message if isinstance(error, click.ClickException) else str(error)
        raise InvalidExperimentError(f"--run-config {list(overrides)}: {message}") from error
    for key, value in changes.items():
        if key not in config:
            raise InvalidExperimentError(
                f"--run-config {key} = {value!r}: the app has no such key; {closest(key, config)}"
            )
    return changes


def _supernodes(settings: dict[str, Any]) -> int | None:
    federations = settings.get("federations", {})
    chosen = federations.get(federations.get("default"), {})
    count = chosen.get("options", {}).get("num-supernodes")
    return count if isinstance(count, int) and count > 0 else None


def on_path(directory: Path) -> None:
    """Put an app's directory first on the search path, before what it may share a name with."""
    sys.path[:] = [str(directory), *(path for path in sys.path if path != str(directory))]


def load_component(directory: Path, reference: str, kind: type) -> Any:
    """Import a component of an app; its directory goes first on the search path.

    Raises
    ------
    InvalidExperimentError
        If it cannot be imported or is not of ``kind``.
    """
    on_path(directory)
    component = import_attribute(reference, "tool.flwr.app.components")
    if not isinstance(component, kind):
        raise InvalidExperimentError(
            f"tool.flwr.app.components = {reference!r}: is a {type(component).__name__}, "
            f"expected a {kind.__name__}"
        )
    return component


def run_app(
    app: FlowerApp,
    make_grid: Callable[[Callable[[], ClientApp]], RayGrid],
    session: Session,
    *,
    checkpoint_every: int | None,
    report: bool,
) -> dict[str, Any]:
    """Run a Flower app on a grid, with the run kept in ``session``.

    Its strategy's ``start`` becomes our round loop; a strategy that overrides ``start``, or an app
    that talks to the grid itself, runs as it is written.

    Returns
    -------
    dict
        The result, as in ``result.json``.

    Raises
    ------
    EngineError
        If all clients failed, in every round.
    """
    client_app = partial(load_component, app.directory, app.client_app, ClientApp)
    # In this order: Ray sets a handler of its own when it starts.
    with make_grid(client_app) as grid, terminated_as_interrupt():
        server_app = load_component(app.directory, app.server_app, ServerApp)
        # What the app waits for is its clients, not our start.
        grid.pool.await_worker()
        starts = _Starts(app, grid, session, checkpoint_every)
        code: str | int | None = None
        with flower.route_start_to(starts.start):
            try:
                server_app(grid, flower.server_context(app.run_config))
            except SystemExit as end:
                # It has said itself how it ends; what it has done is kept all the same.
                code = end.code
        grid.stop_reports()
        result = session.finish(starts.final, report=report)
    if code:
        raise SystemExit(code)
    return result


class _Starts:
    """The app's calls of ``Strategy.start``, and what it exchanges outside of them."""

    def __init__(
        self, app: FlowerApp, grid: RayGrid, session: Session, checkpoint_every: int | None
    ) -> None:
        self.final: ArrayRecord | None = None
        self.failures = ClientFailures(session.directory)
        self._app = app
        self._session = session
        self._checkpoint_every = checkpoint_every
        self._count = 0
        self._clock = time.perf_counter()
        self._grid = grid
        # Held by the thread whose strategy runs, which may begin another within it.
        self._busy = threading.RLock()
        grid.report_to(self._record_exchange)

    def start(
        self,
        strategy: Strategy,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFunction | None = None,
    ) -> Result:
        """Do as ``Strategy.start`` does, in our round loop.

        One that begins in another thread while ours runs has Flower's: a run directory has the
        rounds of one at a time.
        """
        configs = train_config, evaluate_config, evaluate_fn
        if not self._busy.acquire(blocking=False):
            return flower.stock_start(strategy, grid, initial_arrays, num_rounds, timeout, *configs)
        try:
            return self._start(strategy, grid, initial_arrays, num_rounds, timeout, *configs)
        finally:
            self._busy.release()

    def _start(
        self,
        strategy: Strategy,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int,
        timeout: float,
        *configs: Any,
    ) -> Result:
        self._count += 1
        options = self._session.options(
            name=self._app.name,
            checkpoint_every=self._checkpoint_every,
            failures=self.failures,
        )
        if self._count > 1:
            options.checkpoints = self._session.checkpoints.nested(f"start-{self._count}")
        result = run_rounds(
            strategy,
            grid,
            initial_arrays,
            num_rounds,
            timeout,
            *configs,
            options=options,
            engine=self._grid,
        )
        self.final = result.arrays or initial_arrays
        return result

    def _record_exchange(self, report: ExchangeReport) -> None:
        self.failures.note(report)
        seconds, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        server_round = report.server_round
        self._session.record(
            round_record(server_round, server_round, seconds, [report], lambda partition: None)
        )
