"""Configuration of a :class:`~atoll.platform.grid.ray_grid.RayGrid`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atoll.platform.config.sections import NODES_TIMEOUT


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Configuration of a grid: how the nodes of a federation are simulated.

    Attributes
    ----------
    seed : int
        Clients' random states derive from (seed, round, kind of message, partition).
    workers : int or "auto"
        Number of worker processes; "auto" is as many as the cluster holds.
    cpus_per_worker : float
        The share of a node's CPUs that each takes.
    gpus_per_worker : float or "auto"
        The share of a GPU that each takes. "auto" is none where the cluster has no GPU; else as
        many workers work on a GPU as fit into its memory, by what the first one needs.
    threads_per_worker : int
        Threads of a client's tensor operations.
    chunk_size : int or "auto"
        Clients a chunk. It decides the order of additions, so results of different chunk sizes
        agree to rounding only; "auto" depends on the cohort and the model alone.
    run_config : dict, optional
        The run configuration in each client's ``Context``.
    sizes : Sequence[int] or NDArray[int64], optional
        Examples per partition: chunks with most examples start first.
    client_timeout : float, optional
        Seconds that one client may take.
    check_replies : bool or "auto"
        Whether training replies are checked for the keys, shapes and dtypes of the arrays that
        went out, and for NaN and infinite values. "auto" checks them where the arrays are a
        model's and at least one reply matches them. Without checks every reply reaches the
        strategy as the client made it, and one that is late is left to :meth:`pull_messages`;
        with them, a client that is not done in time replies with an error.
    vectorize : bool or "auto"
        Whether a chunk's clients train vectorised, where the app offers it; "auto" times the first
        chunk both ways.
    data : Sequence[Path]
        Folders that the app opens; they are brought to nodes that do not have them.
    name : str
        Name of the workers in Ray's dashboard.
    absent : frozenset[int]
        Nodes that have left: they are not among the grid's nodes, and answer who still asks them.
    nodes_timeout : float
        Seconds to wait for the nodes that an autoscaler brings, if none is there.
    label_selector : dict[str, str], optional
        Labels of the nodes that workers are placed on, in Ray's syntax: ``{"zone": "!in(a, b)"}``.
    address : str, optional
        The Ray cluster; by default the one at hand, or one started here.

    Examples
    --------
    >>> from atoll import GridConfig
    >>> config = GridConfig(seed=0, workers=2, chunk_size=8)
    >>> config.check_replies, config.vectorize, config.gpus_per_worker
    (False, False, 'auto')
    """

    seed: int = 0
    workers: int | Literal["auto"] = "auto"
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | Literal["auto"] = "auto"
    threads_per_worker: int = 1
    chunk_size: int | Literal["auto"] = "auto"
    run_config: dict[str, Any] | None = None
    sizes: Sequence[int] | NDArray[np.int64] | None = None
    client_timeout: float | None = None
    check_replies: bool | Literal["auto"] = False
    vectorize: bool | Literal["auto"] = False
    data: Sequence[Path] = ()
    name: str = "federation"
    absent: frozenset[int] = frozenset()
    nodes_timeout: float = NODES_TIMEOUT
    label_selector: dict[str, str] | None = None
    address: str | None = None
