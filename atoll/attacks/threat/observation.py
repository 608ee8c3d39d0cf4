"""Observations: an attacker's view of one client's update, limited by its threat model.

Attacks get an :class:`Observation` in the place of a capture. What the threat model does not grant
is not in the object (its field is None), so an attack that uses it does not pass the type checker
unless it handles its absence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from atoll.attacks.captures.aggregate_capture import check_simulated
from atoll.attacks.captures.capture import Capture, Truth, check_update
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.image_space import ImageSpace
from atoll.attacks.threat.victim_model import BatchNormMode, VictimModel, build_victim
from atoll.attacks.threat.victim_units import WHOLE, VictimUnit
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.noprop.block_training.block_objective import Draws
from atoll.clients.noprop.block_training.epoch_training import steps_of
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.errors import AttackError, CaptureError

T = TypeVar("T")
# What an attacker believes a defense did to an update: a tensor a parameter in, the same out;
# differentiable, and without state, so that torch.func.vmap accepts it.
Mimic = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class LocalTraining:
    """Local training of a client, as far as an attacker knows it.

    Attributes
    ----------
    settings : ClientSettings
        ``[client]``.
    learning_rate, proximal_mu : float
        Learning rate and weight of the proximal term in the round.
    examples : int
        Number of the client's examples.
    replies_gradient : bool
        Whether it takes no step and replies with its gradient over all examples.

    Examples
    --------
    >>> from atoll.attacks import LocalTraining
    >>> from atoll.clients import ClientSettings
    >>> settings = ClientSettings(batch_size=8, epochs=2)
    >>> known = LocalTraining(settings, learning_rate=0.1, proximal_mu=0.0, examples=20)
    >>> known.steps, known.used  # two passes of three batches, over all of the examples
    (6, 20)
    """

    settings: ClientSettings
    learning_rate: float
    proximal_mu: float
    examples: int
    replies_gradient: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps in the round."""
        if self.settings.steps is not None:
            return self.settings.steps
        return (self.settings.epochs or 1) * -(-self.examples // self.settings.batch_size)

    @property
    def used(self) -> int:
        """The number of examples that the update depends on."""
        if self.replies_gradient:
            return self.examples
        return min(self.examples, self.steps * self.settings.batch_size)

    @property
    def images(self) -> int:
        """The same, where the examples are images."""
        return self.used


@dataclass(frozen=True)
class PublicData:
    """Examples of the same kind as the client's, but not the client's.

    Attributes
    ----------
    examples : Tensor
        Images: float32, shape (n, channels, height, width), in [0, 1]. Rows of a table and tokens:
        as they are stored, shape (n, columns) or (n, length).
    labels : Tensor
        What is to be predicted, shape (n, ...).
    """

    examples: Tensor
    labels: Tensor

    @property
    def images(self) -> Tensor:
        """The examples, where they are images."""
        return self.examples


@dataclass(frozen=True)
class Observation:
    """View of an attacker on one client's update.

    Attributes
    ----------
    server_round, node_id : int
        Round, from 1, and node, from 1; 0 is the sum of the clients.
    threat : ThreatModel
        Capabilities that were granted.
    model : VictimModel
        The architecture with the parameters that were broadcast.
    target : tuple[Tensor, ...]
        The update as a pseudo-gradient, a tensor a parameter: (broadcast - reply) / learning rate,
        which after one step of plain SGD is the gradient of the client's mean loss. Without the
        capability TRAINING the learning rate is unknown, and it is broadcast - reply.
    inputs : Inputs
        What an example is, and how it becomes the model's input.
    task : Task
        What is predicted, and the loss.
    num_examples : int
        Number of examples to reconstruct.
    training : LocalTraining or None
        With TRAINING.
    labels : Tensor or None
        With LABELS: what is predicted of each example, shape (num_examples, ...).
    buffers : dict[str, Tensor] or None
        With BUFFERS: the buffers in the reply, by their names.
    sent_buffers : dict[str, Tensor]
        The buffers that were broadcast.
    batches : Mapping[str, tuple[Tensor, ...]] or None
        With BATCH_ORDER or NOISE: by what is trained
        (:class:`~atoll.attacks.threat.victim_units.VictimUnit`), per local step, indices into the
        ``num_examples``.
    noise : Mapping[str, tuple[Draws, ...]] or None
        With NOISE: in the same way, what the client drew for these examples.
    mimic : Mimic or None
        With DEFENSE: what the client did to its update, with parameters estimated from it.
    public : PublicData or None
        With PUBLIC_DATA.
    """

    server_round: int
    node_id: int
    threat: ThreatModel
    model: VictimModel
    target: tuple[Tensor, ...]
    inputs: Inputs
    task: Task
    num_examples: int
    training: LocalTraining | None = None
    labels: Tensor | None = None
    buffers: Mapping[str, Tensor] | None = None
    sent_buffers: Mapping[str, Tensor] = field(default_factory=dict)
    batches: Mapping[str, tuple[Tensor, ...]] | None = None
    noise: Mapping[str, tuple[Draws, ...]] | None = None
    mimic: Mimic | None = None
    public: PublicData | None = None

    @property
    def name(self) -> str:
        """The client and the round, in a few words."""
        return f"node {self.node_id} in round {self.server_round}"

    @property
    def space(self) -> ImageSpace:
        """The images that the model takes.

        Raises
        ------
        AttackError
            If it takes something else.
        """
        if not isinstance(self.inputs, ImageInputs):
            raise AttackError(f"{self.name}: is of {self.inputs.described}; expected images")
        return ImageSpace.of(self.inputs)

    @property
    def num_images(self) -> int:
        """The number of examples, where they are images."""
        return self.num_examples

    @property
    def classes(self) -> int:
        """The number of a classification's labels; of another task that of outputs."""
        return self.task.outputs


def observe(
    capture: Capture,
    threat: ThreatModel,
    *,
    truth: Truth | None = None,
    mimic: Mimic | None = None,
    public: PublicData | None = None,
    mode: BatchNormMode = "train",
    device: str = "cpu",
) -> Observation:
    """Return the observation of a capture that a threat model grants.

    Parameters
    ----------
    capture : Capture
        A training message and its reply.
    threat : ThreatModel
        Capabilities to grant.
    truth : Truth, optional
        Source of the oracle capabilities (LABELS, BATCH_ORDER, NOISE); used for nothing else.
    mimic : Mimic, optional
        The defense's effect, which DEFENSE grants.
    public : PublicData, optional
        Examples that PUBLIC_DATA grants.
    mode : "train" or "eval"
        How the attacker believes BatchNorm to run at the client.
    device : str
        Device of the tensors.

    Raises
    ------
    CaptureError
        If the capture lacks what the threat model grants.
    AttackError
        If something is granted that was not given here.

    Examples
    --------
    >>> from atoll.attacks import Capability, ThreatModel, example_victim, observe
    >>> victim = example_victim()
    >>> observation = observe(victim.capture, ThreatModel.of(Capability.TRAINING))
    >>> observation.training.steps, observation.labels is None  # the labels were not granted
    (1, True)
    >>> oracle = ThreatModel.of(Capability.TRAINING, Capability.LABELS)
    >>> observe(victim.capture, oracle, truth=victim.truth).labels.tolist()
    [7]
    """
    info = capture.federation
    if Capability.TRAINING in threat:
        check_simulated(capture)
    model = build_victim(
        info.model, info.inputs, info.task, capture.broadcast, mode, device, info.model_seed
    )
    training = LocalTraining(
        info.client,
        capture.learning_rate,
        capture.proximal_mu,
        capture.examples,
        capture.replies_gradient,
    )
    _check_layers_share_examples(capture, model, training)
    used = None if truth is None else used_examples(truth)
    return Observation(
        server_round=capture.server_round,
        node_id=capture.node_id,
        threat=threat,
        model=model,
        target=_target(capture, model, knows_rate=Capability.TRAINING in threat),
        inputs=info.inputs,
        task=info.task,
        num_examples=training.used,
        training=training if Capability.TRAINING in threat else None,
        labels=_oracle(Capability.LABELS, threat, None if used is None else used.labels, device),
        buffers=_buffers(capture, model, threat),
        sent_buffers={k: v for k, v in capture.broadcast.items() if k not in model.parameters},
        batches=_steps(
            {Capability.BATCH_ORDER, Capability.NOISE}, threat, model, training, used, _batches_of
        ),
        noise=_steps({Capability.NOISE}, threat, model, training, used, _draws_of),
        mimic=_given(Capability.DEFENSE, mimic) if Capability.DEFENSE in threat else None,
        public=_given(Capability.PUBLIC_DATA, public) if Capability.PUBLIC_DATA in threat else None,
    )


def used_examples(truth: Truth) -> Truth:
    """Return the truth of those examples that the client's steps used, in their order.

    A client that was asked for a gradient takes no step: it uses all.
    """
    if not truth.batches:
        return truth
    used = torch.unique(torch.cat(truth.batches))
    place = torch.full((len(truth.labels),), -1, dtype=torch.int64)
    place[used] = torch.arange(len(used))
    return Truth(
        inputs=truth.inputs[used],
        labels=truth.labels[used],
        batches=tuple(place[batch] for batch in truth.batches),
        seed=truth.seed,
        indices=truth.indices[used],
    )


def _target(capture: Capture, model: VictimModel, *, knows_rate: bool) -> tuple[Tensor, ...]:
    sent, update = capture.broadcast, capture.update
    check_update(capture, model.parameters)
    rate = capture.learning_rate if knows_rate else 1.0
    tensors = []
    for name, parameter in model.parameters.items():
        if capture.replies_gradient:
            change = update[name].double()
        else:
            change = (sent[name].double() - update[name].double()) / rate
        tensors.append(change.to(parameter))
    return tuple(tensors)


def _buffers(capture: Capture, model: VictimModel, threat: ThreatModel) -> dict[str, Tensor] | None:
    if Capability.BUFFERS not in threat:
        return None
    found = {k: v for k, v in capture.update.items() if k not in model.parameters}
    if not found and capture.broadcast.keys() - model.parameters.keys():
        raise CaptureError(
            f"{capture.directory or capture.name}: the reply holds no buffers; expected "
            "BatchNorm's statistics, which the attack's threat model grants"
        )
    return {name: value.to(model.device) for name, value in found.items()}


def _oracle(
    capability: Capability, threat: ThreatModel, value: Tensor | None, device: str
) -> Tensor | None:
    return _given(capability, value).to(device) if capability in threat else None


def _steps(
    any_of: Set[Capability],
    threat: ThreatModel,
    model: VictimModel,
    training: LocalTraining,
    truth: Truth | None,
    steps_of_unit: Callable[[VictimUnit, LocalTraining, Truth], tuple[T, ...]],
) -> dict[str, tuple[T, ...]] | None:
    """Return something of each step of each unit, where it is granted."""
    granting = sorted(any_of & threat.capabilities)
    if not granting:
        return None
    known = _given(granting[0], truth)
    return {unit.name: steps_of_unit(unit, training, known) for unit in model.units}


def _batches_of(unit: VictimUnit, training: LocalTraining, truth: Truth) -> tuple[Tensor, ...]:
    if unit.name == WHOLE:
        # A client that was asked for a gradient takes no step: it is over all examples.
        return truth.batches or (torch.arange(len(truth.labels)),)
    return tuple(chosen for chosen, _ in _replayed(unit, training, truth))


def _draws_of(unit: VictimUnit, training: LocalTraining, truth: Truth) -> tuple[Draws, ...]:
    if unit.name == WHOLE:
        return ({},) * max(1, len(truth.batches))
    return tuple(draws for _, draws in _replayed(unit, training, truth))


def _replayed(
    unit: VictimUnit, training: LocalTraining, truth: Truth
) -> Iterator[tuple[Tensor, Draws]]:
    """Yield the steps of a unit, replayed from its seed."""
    seed = truth.part_seeds.get(unit.name)
    if seed is None:
        raise CaptureError(
            f"the truth has no seed of the {unit.name!r} that the client trained; expected one for "
            "each layer"
        )
    generator = torch.Generator().manual_seed(seed)
    return steps_of(unit, len(truth.labels), training.settings, generator)


def _check_layers_share_examples(
    capture: Capture, model: VictimModel, training: LocalTraining
) -> None:
    """Refuse layers that were trained on different examples: each shuffles by itself."""
    if not model.is_trained_whole and training.used < training.examples:
        raise CaptureError(
            f"{capture.directory or capture.name}: each layer took {training.steps} steps on "
            f"{training.used} of {training.examples} examples of its own choice; expected passes "
            "over all of them (client.epochs)"
        )


def _given(capability: Capability, value: T | None) -> T:
    if value is None:
        raise AttackError(
            f"the threat model grants {str(capability)!r}, and there is none; expected it to be "
            "given, or an attack without it"
        )
    return value
