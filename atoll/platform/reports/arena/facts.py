"""What an arena's report knows beside its rows: settings, privacy spent, classes, versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.attacks.base.attack_names import BASELINES
from atoll.attacks.threat.capabilities import Capability

ALWAYS = (
    "The attacker is the server, or somebody who reads its messages. It sees the model that a "
    "client is sent and the update that the client returns. It knows the number of examples that "
    "the update depends on, how examples are normalised, the loss, and the mode of BatchNorm. It "
    "changes neither model nor update, unless it is said to be malicious, and has no access to the "
    "client's device."
)
OF_SUMS = (
    "Under {names} it sees only the sum of a round's updates, as secure aggregation shows it; what "
    "it reconstructs is matched with the examples of all clients in the sum."
)
MEANINGS = {
    Capability.TRAINING: "knows how clients train: learning rate, batch size, epochs, optimiser",
    Capability.LABELS: "is told the labels of the client's examples (an oracle: no server sees "
    "them, so this is an upper bound)",
    Capability.BUFFERS: "sees BatchNorm's statistics after training (an oracle where clients keep "
    "them)",
    Capability.BATCH_ORDER: "is told which examples each local step used (an oracle)",
    Capability.NOISE: "is told the noise that the client drew (an oracle)",
    Capability.DEFENSE: "knows which defense acts, and allows for it, with parameters estimated "
    "from the update",
    Capability.PUBLIC_DATA: "has public examples of the same kind as the clients'",
    Capability.GENERATOR: "has a generator of such images, trained on public data",
    Capability.PRIOR: "has a prior of such examples, trained on public data",
    Capability.CHOOSES_MODEL: "is malicious: it chooses the model that it sends",
}


@dataclass(frozen=True)
class Privacy:
    """Differential privacy that a federation's clients have spent at its end.

    Attributes
    ----------
    epsilon : float
        The largest of any client.
    delta : float or None
        What it is at; None where that is not known.
    """

    epsilon: float
    delta: float | None

    def __str__(self) -> str:
        at = "" if self.delta is None else f" (delta = {self.delta:g})"
        return f"{self.epsilon:.3g}{at}"


@dataclass(frozen=True)
class ArenaFacts:
    """What is known of an arena beside its rows.

    Attributes
    ----------
    tables : Mapping
        ``arena.toml``: the section ``[arena]`` and the experiment's.
    privacy : Mapping
        By setting and defense; those without accounting are left out.
    classes : int or None
        How many classes the data have.
    versions : Mapping[str, str]
        Of Python and packages.
    failed : Mapping[str, str]
        Why federations and attacks failed.
    federations_left, attacks_left : int
        How many federations, and how many attacks on those that ended, a time budget left out.
    membership : Sequence of rows
        Figures of membership inference: setting, defense, epsilon, method and what it finds.
    """

    tables: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[tuple[str, str], Privacy] = field(default_factory=dict)
    classes: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    federations_left: int = 0
    attacks_left: int = 0
    membership: Sequence[Sequence[str]] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The section ``[arena]``."""
        found: Mapping[str, Any] = self.tables.get("arena", {})
        return found

    @property
    def undefended(self) -> str | None:
        """The label of the federation as the file has it, without a defense."""
        sums = self.settings.get("sums", ())
        defenses: Mapping[str, Any] = self.settings.get("defenses", {})
        return next((n for n, own in defenses.items() if not own and n not in sums), None)


def threats_of(rows: Sequence[Mapping[str, Any]], facts: ArenaFacts) -> list[list[str]]:
    """Return a row an attacker: its name, its class, and what it has in plain words."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        name = row["attack_label"]
        if row["knowledge"] != "naive":
            name = f"{name} ({row['knowledge']})"
        found.setdefault((name, row["threat"]), (row["attack"], row["label_source"]))
    return [
        [name, threat.partition(" (")[0] or threat, "; ".join(in_words(threat, *more))]
        for (name, threat), more in found.items()
    ]


def in_words(threat: str, method: str, label_source: str) -> Iterator[str]:
    """Yield what an attacker has and knows, from the name of its threat model."""
    inside = re.search(r"\((.*)\)$", threat)
    named = inside[1].split(", ") if inside else []
    known = [Capability(name) for name in named if name in set(Capability)]
    if method in BASELINES:
        yield "a baseline: what it shows hardly depends on the update, if at all"
    yield from (MEANINGS[capability] for capability in known)
    if not known:
        yield "knows nothing beside the messages"
    yield f"labels: {label_source}"


def assumptions(facts: ArenaFacts) -> list[str]:
    """Return what holds of every attacker, in sentences."""
    sums = facts.settings.get("sums", ())
    return [ALWAYS, *([OF_SUMS.format(names=", ".join(sums))] if sums else [])]
