"""Captures: the messages of one client in one round as the server saw them, and the ground truth.

:mod:`~atoll.attacks.captures.capture_files` keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.inputs.kinds import AnyInputs
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.training.learning_rates import learning_rate_at
from atoll.errors import AtollError, CaptureError, InvalidExperimentError

MODEL_RECORD = "arrays"
# In the place of a node's id: the sum of a round's clients, as secure aggregation tells it.
SUM = 0


class _Examples(BaseModel):
    """The part of a federation's JSON that says what an example is."""

    model_config = ConfigDict(extra="ignore", strict=True)

    inputs: AnyInputs
    task: AnyTask


@dataclass(frozen=True)
class FederationInfo:
    """Public facts of a federation, which the server knows because it runs it.

    Attributes
    ----------
    dataset : str
        The data set's name.
    model, client : ModelSettings, ClientSettings
        ``[model]`` and ``[client]``.
    inputs : Inputs
        What an example is, and how it becomes a model's input.
    task : Task
        What is predicted, and the loss.
    num_rounds : int
        Rounds of the run, for learning-rate schedules.
    model_seed : int
        Seed of the model's initial parameters: frozen ones are not in messages.

    Examples
    --------
    >>> from atoll.attacks import FederationInfo, example_victim
    >>> info = example_victim().capture.federation
    >>> info.dataset, info.model.name, info.inputs.kind, info.task.kind, len(info.classes)
    ('digits', 'mlp', 'images', 'classification', 10)
    >>> FederationInfo.from_json(info.to_json()) == info
    True
    """

    dataset: str
    model: ModelSettings
    client: ClientSettings
    inputs: AnyInputs
    task: AnyTask
    num_rounds: int
    model_seed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; none where no class is predicted."""
        return self.task.class_names

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "dataset": self.dataset,
            "model": self.model.model_dump(mode="json"),
            "client": self.client.model_dump(mode="json"),
            "inputs": self.inputs.model_dump(mode="json"),
            "task": self.task.model_dump(mode="json"),
            "num_rounds": self.num_rounds,
            "model_seed": self.model_seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FederationInfo:
        """Parse the output of :meth:`to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or is not what it should be.
        """
        examples = _Examples.model_validate(value) if "inputs" in value else _of_images(value)
        inputs = examples.inputs
        if isinstance(inputs, ImageInputs):
            _check_normalization(inputs)
        return cls(
            dataset=str(value["dataset"]),
            model=ModelSettings.model_validate(value["model"]),
            client=ClientSettings.model_validate(value["client"]),
            inputs=inputs,
            task=examples.task,
            num_rounds=int(value["num_rounds"]),
            # Captures of earlier versions have frozen parameters in their messages.
            model_seed=int(value.get("model_seed", 0)),
        )


def _of_images(value: Mapping[str, Any]) -> _Examples:
    """Return what an example is, as it was written when all were images with one label."""
    channels, height, width = map(int, value["image_shape"])
    inputs = ImageInputs(
        image_shape=(channels, height, width),
        mean=tuple(map(float, value["mean"])),
        std=tuple(map(float, value["std"])),
    )
    return _Examples(inputs=inputs, task=Classification(classes=tuple(map(str, value["classes"]))))


def _check_normalization(inputs: ImageInputs) -> None:
    channels = inputs.image_shape[0]
    for name, values in (("mean", inputs.mean), ("std", inputs.std)):
        if len(values) != channels:
            raise ValueError(
                f"{name} = {list(values)}: expected a number for each of {channels} channels"
            )


@dataclass(frozen=True)
class Content:
    """A message's records.

    Attributes
    ----------
    arrays : dict[str, dict[str, Tensor]]
        By the record's name and the array's key.
    values : dict[str, dict]
        Config and metrics, by the record's name.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Content
    >>> reply = Content({"arrays": {"weight": torch.zeros(2)}}, {"metrics": {"num-examples": 8}})
    >>> reply.value("num-examples"), reply.value("loss")
    (8, None)
    """

    arrays: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """Return the value of that key in whichever record has it, or None."""
        return next((values[key] for values in self.values.values() if key in values), None)


@dataclass(frozen=True)
class Capture:
    """One client's message and reply.

    Attributes
    ----------
    server_round, node_id : int
        Round, from 1, and node; nodes are 1 to the number of clients, and SUM is all of the
        round's, seen as one client that has everybody's examples.
    message_type : str
        "train", or "query.moments".
    federation : FederationInfo
        Public facts of the federation.
    sent, reply : Content
        The message to the client, and its answer.
    directory : Path or None
        Its folder, if it has one.

    Examples
    --------
    >>> from atoll.attacks import example_victim
    >>> capture = example_victim(examples=3).capture
    >>> capture.name, capture.examples, capture.learning_rate
    ('node 1 in round 1', 3, 0.1)
    >>> sorted(capture.broadcast) == sorted(capture.update)  # the sent model and the reply's
    True
    """

    server_round: int
    node_id: int
    message_type: str
    federation: FederationInfo
    sent: Content
    reply: Content
    directory: Path | None = None

    @property
    def name(self) -> str:
        """The client and the round, in a few words."""
        who = "the sum of the clients" if self.node_id == SUM else f"node {self.node_id}"
        return f"{who} in round {self.server_round}"

    @property
    def broadcast(self) -> Mapping[str, Tensor]:
        """The model that went out, by the keys of its ``state_dict``.

        Raises
        ------
        CaptureError
            If the message holds none.
        """
        return self._model(self.sent, "sent")

    @property
    def update(self) -> Mapping[str, Tensor]:
        """The model (or, if :attr:`replies_gradient`, the gradient) that came back.

        Raises
        ------
        CaptureError
            If the reply holds none.
        """
        return self._model(self.reply, "reply")

    def _model(self, content: Content, part: str) -> Mapping[str, Tensor]:
        arrays = content.arrays
        found = arrays.get(MODEL_RECORD)
        if found is None and len(arrays) == 1:
            [found] = arrays.values()
        if found is None:
            raise CaptureError(
                f"{self.directory or self.name}: the {part} holds no model (records of arrays: "
                f"{', '.join(arrays) or 'none'}); expected one named {MODEL_RECORD!r}"
            )
        return found

    @property
    def replies_gradient(self) -> bool:
        """Whether the strategy asked for a gradient in the place of a trained model."""
        return bool(self.sent.value("replies-gradient"))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the round."""
        given = self.sent.value("learning-rate")
        if given is not None:
            return float(given)
        info = self.federation
        return learning_rate_at(info.client, self.server_round, info.num_rounds)

    @property
    def proximal_mu(self) -> float:
        """The weight of FedProx's term."""
        given = self.sent.value("proximal-mu")
        return self.federation.client.proximal_mu if given is None else float(given)

    @property
    def examples(self) -> int:
        """The number of examples that the client reports.

        Raises
        ------
        CaptureError
            If it does not say.
        """
        count = self.reply.value("num-examples")
        if not isinstance(count, int | float) or count < 1:
            raise CaptureError(
                f"{self.directory or self.name}: the reply's num-examples is {count!r}; expected "
                "at least 1"
            )
        return int(count)


@dataclass(frozen=True)
class Truth:
    """Ground truth of a capture, for metrics and for capture validation only.

    Attributes
    ----------
    inputs : Tensor
        The examples as they are stored and the client trained on them, of shape
        ``(n, *stored_shape)``.
        Images: uint8, shape (n, height, width, channels). Rows of a table: float64, shape
        (n, columns). Tokens: int32, shape (n, length).
    labels : Tensor
        What is to be predicted, shape (n, ...): int64, shape (n,) for one label.
    batches : tuple[Tensor, ...]
        Per local step the indices of its examples, among the n; empty where the client takes no
        step, or trains parts of the model apart.
    seed : int
        Seed of the client's generators in that round.
    indices : Tensor
        int64, shape (n,): which examples of the data set's training split they are.
    part_seeds : Mapping[str, int]
        Where the client trains parts of the model apart (NoProp's blocks): by name, the seed from
        which a part's batches, noise and times derive.

    Examples
    --------
    >>> from atoll.attacks import example_victim
    >>> truth = example_victim(examples=3).truth
    >>> truth.pixels.shape, truth.pixels.dtype, truth.images.shape, truth.images.dtype
    (torch.Size([3, 8, 8, 1]), torch.uint8, torch.Size([3, 1, 8, 8]), torch.float32)
    >>> [batch.tolist() for batch in truth.batches]  # one local step for each image
    [[2], [0], [1]]
    """

    inputs: Tensor
    labels: Tensor
    batches: tuple[Tensor, ...]
    seed: int
    indices: Tensor
    part_seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def pixels(self) -> Tensor:
        """The inputs of examples that are images: uint8, shape (n, height, width, channels)."""
        return self.inputs

    @property
    def images(self) -> Tensor:
        """The images: float32, shape (n, channels, height, width), in [0, 1]."""
        return self.pixels.permute(0, 3, 1, 2).float() / 255

    def normalized(self, federation: FederationInfo) -> Tensor:
        """Return the inputs as the client's model saw them, to the bit."""
        return federation.inputs.to_tensor(self.inputs.numpy())


@contextmanager
def faults_of(capture: Capture) -> Iterator[None]:
    """Name the capture in errors that are raised within this context.

    Raises
    ------
    AtollError
        What was raised, with the capture's folder before it; CaptureError for what is no error of
        ours.
    """
    where = str(capture.directory or capture.name)
    try:
        yield
    except (CaptureError, InvalidExperimentError) as error:
        if where in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error
    except AtollError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise CaptureError(
            f"{where}: its content does not go together ({type(error).__name__}: {said})"
        ) from error


def check_update(capture: Capture, parameters: Mapping[str, Tensor]) -> None:
    """Refuse an update that lacks a parameter, or whose values cannot be one's.

    Parameters
    ----------
    capture : Capture
        Whose reply is looked at.
    parameters : Mapping[str, Tensor]
        The model's, by name: the shapes that are expected.

    Raises
    ------
    CaptureError
        Naming the arrays that are missing, or the first of another shape or with values that are
        infinite or not numbers: nothing can be told from these.
    """
    where, update = capture.directory or capture.name, capture.update
    missing = [name for name in parameters if name not in update]
    if missing:
        raise CaptureError(
            f"{where}: the reply lacks the arrays {missing[:3]}; expected one for each parameter "
            "of the model"
        )
    for name, parameter in parameters.items():
        if update[name].shape != parameter.shape:
            raise CaptureError(
                f"{where}: the reply's {name!r} has shape {tuple(update[name].shape)}, expected "
                f"{tuple(parameter.shape)}"
            )
        if not bool(update[name].isfinite().all()):
            raise CaptureError(
                f"{where}: the reply's {name!r} has values that are not finite; expected numbers"
            )
