"""Making ready what workers start with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from ray import cloudpickle

from atoll.errors import EngineError
from atoll.platform.worker.actor import WorkerSetup
from atoll.platform.worker.node_data import NodeData
from atoll.user_code.main_module import MainCode


def make_with_main(main: MainCode, make: Callable[[], ClientApp]) -> ClientApp:
    """Return a ClientApp, made where a script's or a notebook's own code is defined."""
    main.install()
    return make()


def worker_setup(
    client_app: ClientApp | Callable[[], ClientApp],
    run_config: dict[str, Any],
    threads: int,
    *,
    gpu: bool,
    data: Sequence[Path] = (),
) -> WorkerSetup:
    """Return the setup of workers that run ``client_app``, which opens the folders ``data``.

    Raises
    ------
    EngineError
        If the app (or something that it holds) cannot be pickled.
    """
    try:
        app = cloudpickle.dumps(client_app)
    except Exception as error:
        raise EngineError(
            f"the ClientApp cannot be sent to workers ({type(error).__name__}: {error}); give a "
            "callable that makes it there"
        ) from error
    search_path = tuple(str(Path(path).resolve()) for path in sys.path)
    setup = WorkerSetup(app, run_config, threads, gpu, search_path)
    if not data:
        return setup

    return replace(setup, data=NodeData.of(data))
