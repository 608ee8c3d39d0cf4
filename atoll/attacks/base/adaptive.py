"""Adaptive attacker: it knows which defenses act, and infers their parameters from the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from atoll.attacks.captures.capture import Capture
from atoll.attacks.defenses import DEFENSES
from atoll.attacks.defenses.base.defense import Defense, Estimate
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import Mimic, Observation, observe
from atoll.clients.mods import find_mods
from atoll.clients.settings import ClientSettings


@dataclass(frozen=True)
class Belief:
    """Belief of an attacker about what the client's defenses did.

    Attributes
    ----------
    mimic : Mimic
        Does the same to a simulated update, differentiably.
    figures : dict[str, float]
        What was estimated, by "defense: figure".
    """

    mimic: Mimic
    figures: dict[str, float] = field(default_factory=dict)


def defenses_of(client: ClientSettings) -> list[Defense]:
    """Return the defenses among ``client.mods``, the outermost first."""
    return [mod for mod in find_mods(client.mods, DEFENSES) if isinstance(mod, Defense)]


def believe(observation: Observation, kinds: Sequence[type[Defense]]) -> Belief:
    """Return an attacker's belief about the defenses, from an observed update.

    Parameters
    ----------
    observation : Observation
        The update.
    kinds : Sequence[type[Defense]]
        The outermost first; their arguments are not known.
    """
    module = observation.model.module
    estimates = [(kind, kind.estimate(observation.target, module)) for kind in kinds]
    figures = {
        f"{kind.name}: {name}": value
        for kind, estimate in estimates
        for name, value in estimate.figures.items()
    }
    return Belief(_Mimics(tuple(reversed(estimates))), figures)


def mimic_of(capture: Capture, threat: ThreatModel, device: str = "cpu") -> Mimic | None:
    """Return an attacker's model of a captured client's defenses; None without any.

    Parameters
    ----------
    capture : Capture
        Whose federation says which defenses act.
    threat : ThreatModel
        The attacker's; without DEFENSE it knows of none.
    device : str
        Where tensors go.
    """
    kinds = [type(defense) for defense in defenses_of(capture.federation.client)]
    if Capability.DEFENSE not in threat or not kinds:
        return None
    known = ThreatModel(frozenset({Capability.TRAINING} & threat.capabilities))
    return believe(observe(capture, known, device=device), kinds).mimic


@dataclass(frozen=True)
class _Mimics:
    """The defenses' copies one after another, the innermost first."""

    estimates: tuple[tuple[type[Defense], Estimate], ...]

    def __call__(self, update: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for kind, estimate in self.estimates:
            update = tuple(kind.mimic(update, estimate))
        return update
