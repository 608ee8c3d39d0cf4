"""All mods that an experiment can name: Flower's, and the defenses of :mod:`atoll.attacks`.

Clients know no defense: what they are given says ``module:Class`` where the experiment has a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from atoll.attacks.defenses import CHECKS, REFERENCES
from atoll.attacks.defenses.order import check_order
from atoll.clients.mods import CLIENT_MODS, KEY, as_settings, find_mods
from atoll.clients.settings import ClientSettings
from atoll.errors import InvalidExperimentError
from atoll.platform.config.combinations import check_combinations
from atoll.platform.config.strategy_wrappers import check_wrapped
from atoll.registry import Registry
from atoll.strategies.sec_agg_plus import SecAggPlus

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment

PLACES = {**REFERENCES, **CHECKS}
MODS: Registry[Any] = Registry("mod", {**CLIENT_MODS, **PLACES})


def with_references(client: ClientSettings) -> ClientSettings:
    """Return ``[client]`` with each defense's name replaced by the place of its class."""
    entries = []
    for entry in client.mods:
        settings = as_settings(entry)
        name = MODS.check(settings.name, KEY)
        entries.append(settings.model_copy(update={"name": PLACES.get(name, name)}))
    return client.model_copy(update={"mods": tuple(entries)})


def named_mods(client: ClientSettings) -> list[tuple[str, Any]]:
    """Return the mods of ``[client]`` with their registered names, the outermost first."""
    names = [MODS.check(as_settings(mod).name, KEY) for mod in client.mods]
    return list(zip(names, find_mods(client.mods, MODS), strict=True))


def check_mods_of(experiment: Experiment, strategy: Strategy) -> None:
    """Refuse mods that are unknown, have wrong arguments, or do not go together.

    Raises
    ------
    InvalidExperimentError
        With the mod's name and what was expected.
    """
    named = named_mods(experiment.client)
    check_order([mod for _, mod in named])
    names = [name for name, _ in named]
    check_combinations(strategy, named)
    check_wrapped(strategy, names, is_mean=experiment.strategy.reduce is True)
    is_secure = isinstance(strategy, SecAggPlus)
    has_mod = "secure-aggregation" in names
    if is_secure != has_mod:
        raise InvalidExperimentError(
            f"strategy.name = {experiment.strategy.name!r}: client.mods "
            f"{'has' if has_mod else 'lacks'} 'secure-aggregation'; expected strategy SecAggPlus "
            "and that mod, or neither"
        )
    capture = experiment.capture
    if is_secure and capture is not None and capture.nodes != "all":
        raise InvalidExperimentError(
            f"capture.nodes = {list(capture.nodes)}: under SecAggPlus no client's message holds "
            "its update, and the sum is of all clients of a round; expected 'all'"
        )
