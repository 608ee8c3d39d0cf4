"""Settings of clients: the sections ``[data]``, ``[model]`` and ``[client]`` of an experiment file.

Each section is a frozen pydantic model: unknown keys, wrong types and values out of range are
refused with the key's name. ``[data]``, ``[model]`` and ``[client]`` of an experiment are these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from atoll.clients.ranges import (
    BatchSize,
    Clients,
    Decay,
    Epochs,
    Examples,
    Megabytes,
    Norm,
    Rate,
    Rounds,
    Seconds,
    Steps,
    Weight,
)
from atoll.clients.sections import FilePath, Names, UserFunction
from atoll.clients.sections import Section as Section
from atoll.clients.weight_settings import AdapterSettings as AdapterSettings
from atoll.clients.weight_settings import CompanderSettings as CompanderSettings
from atoll.clients.weight_settings import MaskSettings as MaskSettings


class PartitionSettings(Section):
    """``[data.partition]``: how examples are dealt to clients.

    Keys beside ``name`` are the keyword arguments of the partitioner of that name (``alpha``,
    ``min_partition_size``, ``num_shards_per_partition``, ``heterogeneity``, ...).

    Attributes
    ----------
    name : str
        A registered partitioner, or ``module:attribute``: a function, or a Partitioner class of
        flwr-datasets.

    Examples
    --------
    >>> from atoll.clients import PartitionSettings
    >>> PartitionSettings(name="dirichlet", alpha=0.3).arguments
    {'alpha': 0.3}
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "iid"

    @property
    def arguments(self) -> dict[str, Any]:
        """The partitioner's own keyword arguments."""
        return dict(self.model_extra or {})


class LabelNoise(Section):
    """``[data.label_noise]``: training labels that are wrong; test labels stay as they are.

    Attributes
    ----------
    kind : str
        "symmetric": any other class, each as likely. "pair-flip": the class after it.
        "instance": another class by what the example looks like (Xia et al., 2020, "Part-dependent
        Label Noise").
    rate : float
        The share of labels that are replaced.

    Examples
    --------
    >>> from atoll.clients import LabelNoise
    >>> LabelNoise(rate=0.4).kind
    'symmetric'
    """

    kind: Literal["symmetric", "pair-flip", "instance"] = "symmetric"
    rate: Annotated[float, Field(ge=0.0, le=1.0, examples=[0.2])]


class DataSettings(Section):
    """``[data]``: which data set, and how it is spread over clients.

    Attributes
    ----------
    dataset : str
        A registered data set, or ``module:callable`` that returns one.
    path : Path or None
        A folder with the data set's files, or a file of a table; nothing else is tried then. A
        callable is given it as its argument ``path``.
    target : str or None
        Of a table or texts: the column that is to be predicted.
    group : str or None
        Of a table or texts: the column of natural groups, such as hospitals or authors. Without
        ``clients`` and ``partition``, each is a client.
    options : dict
        The data set's own options (``preset``, ``protocol``, ``image_size``, ...), or a callable's
        keyword arguments.
    held_out : tuple[str, ...]
        Domains that are given to no client.
    clients : int
        The number of clients; where neither this nor ``partition`` is set, natural groups are
        clients, if there are any.
    partition : PartitionSettings
        How examples are dealt to clients.
    train_examples : int or None
        The training examples that are used, at most.
    test_examples : int or None
        The test examples that the server evaluates on, at most; of each domain, where the data
        set has domains.
    examples_per_client : int or None
        A client's examples, at most.
    client_test_fraction : float
        The share of a client's examples that it keeps for its own evaluation.
    label_noise : LabelNoise or None
        Noise of the training labels, those that clients test on included.

    Examples
    --------
    >>> from pydantic import ValidationError
    >>> from atoll.clients import DataSettings
    >>> DataSettings(dataset="digits", clients=10).partition.name
    'iid'
    >>> try:
    ...     DataSettings(clients=0)
    ... except ValidationError as error:
    ...     print(error.errors()[0]["msg"])
    Input should be greater than 0
    """

    dataset: str = "mnist"
    path: Annotated[FilePath | None, Field(examples=["images"])] = None
    target: Annotated[str | None, Field(min_length=1, examples=["outcome"])] = None
    group: Annotated[str | None, Field(min_length=1, examples=["hospital"])] = None
    options: Annotated[dict[str, Any], Field(examples=[{"image_size": 32}])] = {}  # noqa: RUF012
    held_out: Annotated[tuple[str, ...], Field(strict=False, examples=[["dark"]])] = ()
    clients: Clients = 100
    partition: PartitionSettings = PartitionSettings()
    train_examples: Annotated[Examples | None, Field(examples=[10_000])] = None
    test_examples: Annotated[Examples | None, Field(examples=[1_000])] = None
    examples_per_client: Annotated[Examples | None, Field(examples=[50])] = None
    client_test_fraction: Decay = 0.0
    label_noise: Annotated[LabelNoise | None, Field(examples=[{"rate": 0.2}])] = None

    @property
    def dataset_options(self) -> dict[str, Any]:
        """The data set's own options, with ``target`` and ``group`` among them."""
        columns = {"target": self.target, "group": self.group}
        return {**self.options, **{key: name for key, name in columns.items() if name is not None}}


class ModelSettings(Section):
    """``[model]``: which model; other keys are the model's keyword arguments.

    Attributes
    ----------
    name : str
        A registered model or ``module:callable``.
    adapters : AdapterSettings or None
        What is trained in place of the model's parameters; only that travels.
    masks : MaskSettings or None
        Masks of the frozen weights are trained in their place; only these and the head travel.
    compander : CompanderSettings or None
        Weights are an increasing function of what is trained.

    Examples
    --------
    >>> from atoll.clients import ModelSettings
    >>> ModelSettings(name="my_models:net", width=16).arguments
    {'width': 16}
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "lenet"
    adapters: Annotated[AdapterSettings | None, Field(examples=[{"rank": 8}])] = None
    masks: Annotated[MaskSettings | None, Field(examples=[{"scale": 0.01}])] = None
    compander: Annotated[CompanderSettings | None, Field(examples=[{"scale": 1.0}])] = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The model's own keyword arguments."""
        return dict(self.model_extra or {})


class ScheduleSettings(Section):
    """``[client.schedule]``: the clients' learning rate as a function of the round.

    Attributes
    ----------
    name : str
        The kind of schedule.
    every : int
        Rounds between two multiplications by ``factor`` ("step").
    factor : float
        The multiplier of "step" and "exponential".
    final : float
        The learning rate at the end of "cosine".
    warmup_rounds : int
        Rounds in which the rate grows linearly, for every kind.
    """

    name: Literal["constant", "step", "cosine", "exponential"] = "constant"
    every: Rounds = 10
    factor: Annotated[float, Field(ge=1e-6, le=1.0)] = 0.5
    final: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    warmup_rounds: Annotated[int, Field(ge=0, le=10_000_000)] = 0


class ModSettings(Section):
    """An entry of ``client.mods``; keys beside ``name`` are the mod's arguments.

    Attributes
    ----------
    name : str
        A registered defense or mod, or ``module:attribute``.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The mod's own keyword arguments."""
        return dict(self.model_extra or {})


class TermSettings(ModSettings):
    """``[[client.objective]]``: a term of what clients minimise, beside the task's loss.

    Keys beside these are the term's own.

    Attributes
    ----------
    name : str
        A registered term, or ``module:attribute``: a class derived from ``ObjectiveTerm``, or a
        function of a batch that returns a scalar.
    weight : float
        What the term is multiplied by, where the term has no default of its own; at 0 it is left
        out.

    Examples
    --------
    >>> from atoll.clients.settings import TermSettings
    >>> TermSettings(name="sam", rho=0.1).arguments
    {'rho': 0.1}
    """

    name: Annotated[str, Field(examples=["sam"])]
    weight: Weight = 1.0


class PersonalSettings(ModSettings):
    """``[client.personal]``: how a client's own model is made; other keys are the method's.

    Attributes
    ----------
    name : str
        A registered personal method, or ``module:Class`` derived from ``PersonalMethod``.
    """

    name: Annotated[str, Field(examples=["ditto"])]


class SelectionSettings(Section):
    """``[client.selection]``: which of its examples a client trains on, by their scores.

    A client scores its examples with the model that it is sent, and trains on all of them. After
    ``score_rounds`` of its rounds it trains on those of the highest mean scores alone.

    Attributes
    ----------
    score : str
        "el2n": the norm of predicted probabilities minus the label. "grand": the norm of the
        example's gradient (Paul et al., 2021, "Deep Learning on a Data Diet"). "random": a number
        that says nothing, to compare with.
    drop : float
        The share of examples that is left out: those of the lowest scores.
    score_rounds : int
        The client's rounds in which its examples are scored.
    over : str
        "client": the share is of each client's examples. "federation": of all clients' together, by
        a threshold that the strategy DataDiet finds from the sum of their histograms.

    Examples
    --------
    >>> from atoll.clients.settings import SelectionSettings
    >>> SelectionSettings(drop=0.3).score
    'el2n'
    """

    score: Literal["el2n", "grand", "random"] = "el2n"
    drop: Annotated[float, Field(ge=1e-9, lt=1.0, examples=[0.3])]
    score_rounds: Rounds = 10
    over: Literal["client", "federation"] = "client"


class ClientSettings(Section):
    """``[client]``: local training and evaluation.

    Attributes
    ----------
    optimizer : str
        The local optimiser.
    learning_rate : float
        The learning rate of the first round; ``schedule`` changes it.
    momentum : float
        Momentum of SGD, in [0, 1).
    weight_decay : float
        The weight of the parameters' decay; decoupled from the gradient for "adamw".
    schedule : ScheduleSettings
        The learning rate as a function of the round.
    batch_size : int
        Examples a local step.
    epochs : int or None
        Passes over a client's examples a round; 1 where neither this nor ``steps`` is set.
    steps : int or None
        Local steps a round, in place of ``epochs``.
    proximal_mu : float
        The weight of FedProx's proximal term.
    gradient_clip : float or None
        The largest norm of a step's gradient.
    loss : str or None
        The loss of each example, ``module:callable``; by default the cross-entropy.
    objective : tuple[TermSettings, ...]
        Terms that are added to the loss, tables ``[[client.objective]]``.
    selection : SelectionSettings or None
        Which of its examples a client trains on; None for all.
    vectorize : bool or "auto"
        Whether the clients of a chunk train vectorised (stacked); "auto" times both ways.
    timeout : float or None
        Seconds that a client may take.
    mods : tuple
        Flower mods around training, the outermost first: each a name or a table with a name and
        arguments.
    memory_mb : tuple[float, ...]
        Memory that clients declare for training, in units of 1e6 bytes: client ``i`` has entry
        ``i`` of the list, which is repeated. Layer-wise strategies give each as many layers as fit.
    local : tuple[str, ...] or None
        What never leaves a client: "norm", "head", "body", "embedding", or patterns of tensors.
    personal : PersonalSettings or None
        How a client's own model is made, beside the global one.
    personal_every : int or None
        Rounds between evaluations of clients' own models; by default 1. The last round has one.

    Examples
    --------
    >>> from atoll.clients import ClientSettings
    >>> settings = ClientSettings(optimizer="sgd", learning_rate=0.1, batch_size=20, epochs=2)
    >>> settings.model_copy(update={"epochs": 5}).epochs, settings.vectorize
    (5, 'auto')
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Rate = 0.05
    momentum: Decay = 0.0
    weight_decay: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    schedule: ScheduleSettings = ScheduleSettings()
    batch_size: BatchSize = 20
    epochs: Annotated[Epochs | None, Field(examples=[2])] = None
    steps: Annotated[Steps | None, Field(examples=[10])] = None
    proximal_mu: Weight = 0.0
    gradient_clip: Annotated[Norm | None, Field(examples=[1.0])] = None
    loss: Annotated[UserFunction | None, Field(examples=["my_losses:focal"])] = None
    objective: Annotated[
        tuple[TermSettings, ...],
        Field(strict=False, examples=[[{"name": "sam", "rho": 0.05}]]),
    ] = ()
    selection: Annotated[SelectionSettings | None, Field(examples=[{"drop": 0.3}])] = None
    vectorize: Literal["auto"] | bool = "auto"
    timeout: Annotated[Seconds | None, Field(examples=[60.0])] = None
    mods: Annotated[
        tuple[str | ModSettings, ...],
        Field(strict=False, examples=[[{"name": "gaussian-noise", "std": 0.001}]]),
    ] = ()
    memory_mb: Annotated[tuple[Megabytes, ...], Field(strict=False, examples=[[64.0, 256.0]])] = ()
    local: Annotated[Names | None, Field(examples=["norm"])] = None
    personal: Annotated[PersonalSettings | None, Field(examples=[{"name": "ditto"}])] = None
    personal_every: Annotated[Rounds | None, Field(examples=[10])] = None
