"""``atoll flower``: a Flower app's run, in a run directory like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flwr.clientapp import ClientApp

from atoll import flower
from atoll.errors import RunDirectoryError
from atoll.flower.app_files import bundle_hash
from atoll.platform.callbacks.observers import Observer
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.run_directory.run_files import CONFIG, read_config
from atoll.platform.run_directory.run_lock import RunLock
from atoll.platform.runs.apps.app_directory import FlowerApp, on_path, read_app, run_app
from atoll.platform.runs.apps.app_federation import AppFederation, app_federation
from atoll.platform.runs.session import Session, claim_run_directory, versions
from atoll.randomness import derive_seed, seed_everything
from atoll.user_code.source_identity import source_hashes

TABLE = "flower"
KEEP_CHECKPOINTS = 2


@dataclass(frozen=True)
class AppRun:
    """Settings of a Flower app's run; all that ``atoll resume`` needs.

    Attributes
    ----------
    app_dir : str
        The app's folder.
    run_config : list[str]
        Overrides, in Flower's syntax.
    num_supernodes : int or None
        Nodes; None is what the app or Flower's configuration says.
    federation_config : list[str]
        Overrides of the federation, in Flower's syntax.
    workers : int or "auto"
        Worker processes.
    seed : int
        Seeds sampling and every client.
    client_timeout : float or None
        Seconds that one client may take.
    gpus_per_worker : float or "auto"
        The share of a GPU that each worker takes.
    check_replies : bool
        Whether replies are validated, as those of experiments are.
    checkpoint_every : int or None
        Rounds between checkpoints; None writes none.
    report : bool
        Whether a report is written at the end.
    """

    app_dir: str
    run_config: list[str] = field(default_factory=list)
    num_supernodes: int | None = None
    federation_config: list[str] = field(default_factory=list)
    workers: int | Literal["auto"] = "auto"
    seed: int = 0
    client_timeout: float | None = None
    gpus_per_worker: float | Literal["auto"] = "auto"
    check_replies: bool = False
    checkpoint_every: int | None = None
    report: bool = False


def run_flower_app(
    settings: AppRun, *, out: Path | None, observers: Callable[[Path], list[Observer]]
) -> dict[str, Any]:
    """Run a Flower app in a new run directory and return its result.

    Raises
    ------
    AtollError
        If the folder is not a Flower app, or the run cannot be set up.
    """
    app = read_app(Path(settings.app_dir), settings.run_config)
    config = {TABLE: {k: v for k, v in asdict(settings).items() if v is not None}}
    with claim_run_directory(out, Path("runs"), app.name) as lock:
        return _run(settings, app, lock, config, observers)


def is_app_run(directory: Path) -> bool:
    """Tell whether a run directory is a Flower app's."""
    return TABLE in read_config(directory)


def resume_app(
    directory: Path, *, workers: int | None, observers: Callable[[Path], list[Observer]]
) -> dict[str, Any]:
    """Continue a Flower app's interrupted run.

    Raises
    ------
    RunDirectoryError
        If its configuration cannot be understood.
    """
    try:
        settings = AppRun(**read_config(directory)[TABLE])
    except (TypeError, KeyError) as error:
        raise RunDirectoryError(f"{directory / CONFIG}: is not a Flower app's ({error})") from error
    if workers is not None:
        settings = AppRun(**{**asdict(settings), "workers": workers})
    app = read_app(Path(settings.app_dir), settings.run_config)
    with RunLock(directory) as lock:
        return _run(settings, app, lock, None, observers)


def _run(
    settings: AppRun,
    app: FlowerApp,
    lock: RunLock,
    config: dict[str, Any] | None,
    observers: Callable[[Path], list[Observer]],
) -> dict[str, Any]:
    session = Session(
        lock.directory,
        config,
        identity=_identity(settings, app),
        is_new=config is not None,
        keep_checkpoints=KEEP_CHECKPOINTS,
        observers=observers,
        lock=lock,
    )
    seed_everything(derive_seed(settings.seed, "server"))
    with session:
        return run_app(
            app,
            partial(_grid, settings, app),
            session,
            checkpoint_every=settings.checkpoint_every,
            report=settings.report,
        )


def _federation(settings: AppRun, app: FlowerApp) -> AppFederation:
    return app_federation(settings.federation_config, settings.num_supernodes, app.num_supernodes)


def _identity(settings: AppRun, app: FlowerApp) -> RunIdentity:
    """Return what a run of an app is: how it is configured, not where it lies or runs."""
    config = {
        "run_config": app.run_config,
        "num_supernodes": _federation(settings, app).num_supernodes,
        "seed": settings.seed,
        "client_timeout": settings.client_timeout,
    }
    on_path(app.directory)
    code = source_hashes([app.server_app, app.client_app])
    return RunIdentity({TABLE: config}, versions=versions(), code=code)


def _grid(settings: AppRun, app: FlowerApp, client_app: Callable[[], ClientApp]) -> RayGrid:
    federation = _federation(settings, app)
    gpus = settings.gpus_per_worker
    return RayGrid(
        client_app,
        federation.num_supernodes,
        seed=settings.seed,
        workers=settings.workers,
        cpus_per_worker=federation.cpus or 1.0,
        gpus_per_worker=federation.gpus if gpus == "auto" and federation.gpus else gpus,
        run_config=app.run_config,
        client_timeout=settings.client_timeout,
        check_replies="auto" if settings.check_replies else False,
        name=app.name,
        run=flower.app_run(
            f"{app.publisher}/{app.name}",
            app.version,
            bundle_hash(app.directory),
            app.overrides,
        ),
    )
