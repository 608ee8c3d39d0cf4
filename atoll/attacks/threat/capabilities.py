"""Capabilities of an attacker, and threat models as declared sets of them.

An attack declares its threat model, and :func:`~atoll.attacks.threat.observation.observe` puts
into an observation what every attacker is given (:class:`Given`), what the model grants, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Given(StrEnum):
    """Knowledge that every attacker has, whatever its capabilities.

    Attacks that have no capability need it too. An attacker that lacks some of it is weaker than
    what is measured here.

    Examples
    --------
    >>> from atoll.attacks import Given, ThreatModel
    >>> [str(one) for one in ThreatModel().given][-2:]
    ['normalisation', 'batch-norm mode']
    """

    MODEL = "model"
    """The architecture, and the parameters and buffers that the server sent."""
    UPDATE = "update"
    """The parameters, or the gradient, that the client sent back."""
    COUNT = "number of examples"
    """The number of examples that the update depends on."""
    TASK = "task"
    """What is predicted, and the loss that the client descends."""
    NORMALISATION = "normalisation"
    """What an example is, and how it becomes the model's input: mean and deviation, columns."""
    BATCH_NORM = "batch-norm mode"
    """Whether BatchNorm ran on the batch's or the running statistics, as the evaluation says."""


class Capability(StrEnum):
    """Capability of an attacker, beside what every attacker is given (:class:`Given`).

    Examples
    --------
    >>> from atoll.attacks import Capability
    >>> [str(capability) for capability in Capability][:3]
    ['training', 'labels', 'buffers']
    >>> Capability("labels") is Capability.LABELS
    True
    """

    TRAINING = "training"
    """The client's learning rate, batch size, epochs or steps, and optimiser."""
    LABELS = "labels"
    """The client's labels, in the order of its examples."""
    BUFFERS = "buffers"
    """The model's buffers after the client's training: BatchNorm's statistics of its examples."""
    BATCH_ORDER = "batch order"
    """Which examples each of the client's local steps used."""
    NOISE = "noise"
    """The noise and times that the client drew in its training (NoProp)."""
    DEFENSE = "defense"
    """Which defense the client has; its parameters are estimated from the update."""
    PUBLIC_DATA = "public data"
    """Images of the same kind as the client's, but not the client's."""
    GENERATOR = "generator"
    """A generator trained on public data."""
    PRIOR = "prior"
    """A prior of the client's kind of examples, trained on public data."""
    CHOOSES_MODEL = "chooses the model"
    """The server is malicious: it picks the architecture and parameters that it sends."""


ORACLE = frozenset(
    {Capability.LABELS, Capability.BATCH_ORDER, Capability.NOISE, Capability.BUFFERS}
)
DATA = frozenset({Capability.PUBLIC_DATA, Capability.GENERATOR, Capability.PRIOR})


@dataclass(frozen=True)
class ThreatModel:
    """Set of capabilities that an attacker is granted.

    Attributes
    ----------
    capabilities : frozenset[Capability]
        What is granted beside :attr:`given`.

    Examples
    --------
    >>> from atoll.attacks import Capability, ThreatModel
    >>> threat = ThreatModel.of(Capability.TRAINING, Capability.PUBLIC_DATA)
    >>> Capability.LABELS in threat, threat.name
    (False, 'data-enhanced eavesdropper')
    >>> print(threat.with_([Capability.LABELS]))
    data-enhanced eavesdropper with oracle (labels, public data, training)
    """

    capabilities: frozenset[Capability] = frozenset()

    @classmethod
    def of(cls, *capabilities: Capability) -> ThreatModel:
        """Return the threat model with these capabilities."""
        return cls(frozenset(capabilities))

    def __contains__(self, capability: object) -> bool:
        return capability in self.capabilities

    @property
    def given(self) -> tuple[Given, ...]:
        """What every attacker has."""
        return tuple(Given)

    def with_(self, more: Iterable[Capability]) -> ThreatModel:
        """Return this threat model with more capabilities."""
        return ThreatModel(self.capabilities | frozenset(more))

    @property
    def name(self) -> str:
        """The class: how far the attacker is from a server that just does its work.

        A "malicious server" sends a model of its making. A "data-enhanced eavesdropper" has a
        generator, a prior or public data, an "informed eavesdropper" knows the client's training or
        its defense, an "eavesdropper" neither. "with oracle" says that it was also told something
        that no server sees: labels, the order of batches, the client's noise, or buffers that the
        client keeps.
        """
        has = self.capabilities
        if Capability.CHOOSES_MODEL in has:
            kind = "malicious server"
        elif has & DATA:
            kind = "data-enhanced eavesdropper"
        elif has & {Capability.TRAINING, Capability.DEFENSE}:
            kind = "informed eavesdropper"
        else:
            kind = "eavesdropper"
        return f"{kind} with oracle" if has & ORACLE else kind

    def __str__(self) -> str:
        known = ", ".join(sorted(self.capabilities))
        return f"{self.name} ({known})" if known else self.name
