"""The sections of an experiment file that say how it is run, by whom and where.

What a client is (``[data]``, ``[model]``, ``[client]``) is in :mod:`atoll.clients.settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from atoll.clients.ranges import Count, Number, Processors, Rounds, Seconds, Seed, Share, Weight
from atoll.clients.sections import FilePath, Section, UserFunction
from atoll.platform.config.label_selector import LabelSelector

# A worker is a process: what is beyond this is a mistake.
MAX_WORKERS = 10_000
NO_POISON = "none"


# Tags are cells of tables and words of command lines.
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:=/-]*$", max_length=100)]


class EarlyStoppingSettings(Section):
    """``[run.early_stopping]``: stop when a metric no longer improves, or is good enough.

    Attributes
    ----------
    metric : str or None
        A metric as in ``rounds.parquet``; by default the main one of the task, on the server.
    mode : "max", "min" or None
        Whether larger or smaller values are better; by default as the metric is known to be.
    patience : int or None
        Evaluated rounds without an improvement after which the run stops.
    min_delta : float
        The smallest change that counts as an improvement.
    target : float or None
        A value at which the run stops.
    """

    metric: Annotated[str | None, Field(examples=["server_loss"])] = None
    mode: Annotated[Literal["max", "min"] | None, Field(examples=["min"])] = None
    patience: Annotated[Rounds | None, Field(examples=[5])] = None
    min_delta: Weight = 0.0
    target: Annotated[Number | None, Field(examples=[0.95])] = None


class RunSettings(Section):
    """``[run]``: the run as a whole.

    Attributes
    ----------
    name : str
        The run directory's name below ``out``.
    seed : int
        The seed that all random numbers derive from.
    rounds : int
        The number of rounds.
    round_timeout : float or None
        Seconds that the exchanges of a round may take.
    evaluate_every : int
        Rounds between evaluations on the server; the last round has one.
    checkpoint_every : int
        Rounds between checkpoints; the last round has one.
    keep_checkpoints : int
        How many of the newest checkpoints are kept.
    keep : "last", "best" or int
        Whose checkpoint stays beside the newest: "last" is that of no other round, "best" that of
        the round with the best ``keep_metric``, a number that of this round.
    keep_metric : str or None
        The metric that "best" is by, as in ``rounds.parquet``; by default the main one of the task,
        on the server.
    keep_mode : "max", "min" or None
        Whether larger or smaller values of ``keep_metric`` are better; by default as the metric is
        known to be.
    tags : tuple[str, ...]
        Words by which ``atoll runs`` finds the run; they change nothing else.
    out : Path
        The folder of run directories.
    metrics : tuple[str, ...] or None
        Metrics beside accuracy and loss in the server's evaluation, each ``module:callable``.
    early_stopping : EarlyStoppingSettings or None
        When to stop before the last round.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)] = (
        "federation"
    )
    seed: Seed = 0
    rounds: Rounds = 10
    round_timeout: Annotated[Seconds | None, Field(examples=[600.0])] = None
    evaluate_every: Rounds = 1
    checkpoint_every: Rounds = 5
    keep_checkpoints: Rounds = 2
    keep: Literal["last", "best"] | Rounds = "last"
    keep_metric: Annotated[str | None, Field(examples=["server_loss"])] = None
    keep_mode: Annotated[Literal["max", "min"] | None, Field(examples=["min"])] = None
    tags: Annotated[tuple[Tag, ...], Field(strict=False, examples=[["paper"]])] = ()
    out: FilePath = Path("runs")
    metrics: Annotated[
        tuple[UserFunction, ...] | None,
        Field(strict=False, examples=[["my_metrics:top3"]]),
    ] = None
    early_stopping: EarlyStoppingSettings | None = None


class StrategySettings(Section):
    """``[strategy]``: which strategy; other keys are the strategy's keyword arguments.

    Attributes
    ----------
    name : str
        A registered strategy, or ``module:Class``.
    reduce : bool or "auto"
        Whether workers add up replies. "auto" decides by the strategy's ``aggregate_train``; true
        states that it is a weighted mean.
    check_replies : bool or "auto"
        Whether training replies are checked for keys, shapes, dtypes and finite values.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "FedAvg"
    reduce: Literal["auto"] | bool = "auto"
    check_replies: Literal["auto"] | bool = "auto"

    @property
    def arguments(self) -> dict[str, Any]:
        """The strategy's own keyword arguments."""
        return dict(self.model_extra or {})


# Seconds: nodes of a cloud are set up in minutes.
NODES_TIMEOUT = 900.0


class RaySettings(Section):
    """``[ray]``: the cluster and the workers.

    Attributes
    ----------
    address : str or None
        The cluster's address; by default a running one, else one that is started.
    workers : int or "auto"
        Worker processes; "auto" is as many as the cluster holds.
    cpus_per_worker : float
        The share of a node's CPUs that a worker takes.
    gpus_per_worker : float or "auto"
        The share of a GPU that a worker takes. "auto" is none where the cluster has no GPU; else
        as many workers work on a GPU as fit into its memory, by what the first one needs.
    threads_per_worker : int
        Threads of a client's tensor operations.
    chunk_size : int or "auto"
        Clients a chunk; "auto" depends on the cohort and the model alone.
    nodes_timeout : float
        Seconds to wait, at the start, for nodes that the cluster's autoscaler brings, if those
        that are there hold no worker.
    label_selector : dict[str, str] or None
        Labels of the nodes that workers are placed on, in Ray's syntax: ``zone = "a"``,
        ``zone = "!in(a, b)"``. By default they are placed on every node.
    """

    address: Annotated[str | None, Field(examples=["10.0.0.1:6379"])] = None
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_WORKERS)] = "auto"
    cpus_per_worker: Processors = 1.0
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0.0, le=1_000.0)] = "auto"
    threads_per_worker: Annotated[int, Field(gt=0, le=1_024)] = 1
    chunk_size: Literal["auto"] | Count = "auto"
    nodes_timeout: Seconds = NODES_TIMEOUT
    label_selector: Annotated[LabelSelector | None, Field(examples=[{"zone": "a"}])] = None


class LayersSettings(Section):
    """``[layers]``: train a NoProp network's blocks where the data are, each by itself.

    Its presence makes the experiment layer-wise training: a round is an epoch of every unit (a
    block, the head, a baseline's member), and there is no ``[strategy]``.

    Attributes
    ----------
    baselines : tuple[str, ...]
        What is trained beside the blocks, to compare with.
    inference : "process", "features" or "pipeline"
        How evaluation goes through the blocks: a worker has them all; workers compute what each
        block needs of the images, and then one has the rest; or the latents go from one worker to
        the next. All give the same bits.
    """

    baselines: Annotated[
        tuple[Literal["chain", "cnn", "ensemble"], ...],
        Field(strict=False, examples=[["chain", "cnn"]]),
    ] = ()
    inference: Literal["process", "features", "pipeline"] = "process"


class LogSettings(Section):
    """``[log]``: what is shown and written beside the ledger.

    Attributes
    ----------
    level : str
        The least severe messages that are shown.
    progress : bool
        Whether the terminal shows progress.
    tensorboard : bool
        Whether TensorBoard events are written.
    mlflow : bool or str
        Whether metrics go to MLflow: true is the server that ``MLFLOW_TRACKING_URI`` names, a text
        is a tracking URI.
    wandb : bool
        Whether metrics go to Weights & Biases, as its own settings say (``WANDB_MODE``,
        ``WANDB_PROJECT``, ``WANDB_API_KEY``).
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    progress: bool = True
    tensorboard: bool = False
    mlflow: bool | str = False
    wandb: bool = False


class CaptureSettings(Section):
    """``[capture]``: whose messages are recorded, and in which rounds.

    Attributes
    ----------
    nodes : tuple[int, ...] or "all"
        Node ids, from 1 to the number of clients.
    rounds : tuple[int, ...]
        Rounds, from 1.
    """

    nodes: Annotated[
        Literal["all"] | Annotated[tuple[Count, ...], Field(strict=False, min_length=1)],
        Field(examples=[[1, 2]]),
    ]
    rounds: Annotated[tuple[Rounds, ...], Field(strict=False, min_length=1, examples=[[1, 5]])]


class PoisonSettings(Section):
    """``[poison]``: which clients attack, and how; other keys are the attack's settings.

    Attributes
    ----------
    attack : str
        A registered attack, ``module:Class``, or "none".
    nodes : tuple[int, ...] or float
        Node numbers of the attacker's clients, from 1; or their share of the clients, which are
        then drawn from the seed.
    start_round : int
        The first round in which they attack.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    attack: Annotated[str, Field(examples=["sign-flip"])] = NO_POISON
    nodes: Annotated[
        Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] | Share,
        Field(examples=[[1, 2]]),
    ] = 0.2
    start_round: Rounds = 1

    @property
    def arguments(self) -> dict[str, Any]:
        """The attack's own settings."""
        return dict(self.model_extra or {})
