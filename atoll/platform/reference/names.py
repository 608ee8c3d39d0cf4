"""Names that experiment files can use, by kind, and the keys that each of them takes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from atoll.error_messages import closest
from atoll.errors import UnknownNameError
from atoll.platform.reference.docstrings import descriptions_of, plain, summary_of
from atoll.platform.reference.key import Key
from atoll.platform.reference.keys import (
    keys_of_callable,
    keys_of_dataclass,
    keys_of_settings,
)
from atoll.platform.reference.kinds import KINDS

KeysOf = Callable[[str, Any], list[Key]]


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes
    ----------
    name : str
        The name.
    about : str
        One line about it.
    text : str
        The first paragraphs of its documentation.
    section : str
        The table of an experiment file that holds its keys; empty if it has none.
    keys : list[Key]
        The keys that it takes there.
    takes_more : str
        Where other keys go: "model.base", say; empty if there are no others.
    """

    name: str
    about: str
    text: str = ""
    section: str = ""
    keys: list[Key] = field(default_factory=list)
    takes_more: str = ""


@dataclass(frozen=True)
class Source:
    """Where the names of a kind and their keys are found.

    Attributes
    ----------
    entries : Callable
        Returns what each name stands for.
    keys_of : Callable
        Returns the keys of a name.
    """

    entries: Callable[[], Mapping[str, Any]]
    keys_of: KeysOf


def _datasets() -> Mapping[str, Any]:
    from atoll.clients.data.catalog.loading import DATASETS

    return DATASETS


def _models() -> Mapping[str, Any]:
    from atoll.clients.models import MODELS

    return MODELS


def _partitioners() -> Mapping[str, Any]:
    from atoll.clients.data.partitioning.partitioners import PARTITIONERS

    return PARTITIONERS


def _strategies() -> Mapping[str, Any]:
    from atoll.strategies import STRATEGIES

    return STRATEGIES


def _mods() -> Mapping[str, Any]:
    from atoll.platform.config.client_mods import MODS

    return MODS


def _personal() -> Mapping[str, Any]:
    from atoll.clients.personal.methods import PERSONAL_METHODS

    return PERSONAL_METHODS


def _terms() -> Mapping[str, Any]:
    from atoll.clients.training.objective.named_terms import TERMS

    return {name: term for name, term in TERMS.items() if term.of_strategy is None}


def _attacks() -> Mapping[str, Any]:
    from atoll.attacks import ATTACKS

    return ATTACKS


def _poisons() -> Mapping[str, Any]:
    from atoll.attacks.poisoning import POISONS

    return {"none": "no attack: every client is honest", **POISONS}


def _generators() -> Mapping[str, Any]:
    from atoll.attacks.generators import GENERATORS

    ours = "our generator of a data set, by the data set's name: train-generator"
    return {"DATASET": ours, **GENERATORS}


def _priors() -> Mapping[str, Any]:
    from atoll.attacks.priors import PRIORS

    return PRIORS


def _keys_of_dataset(name: str, entry: Any) -> list[Key]:
    return keys_of_settings(entry.options)


def _keys_of_model(name: str, make: Any) -> list[Key]:
    from atoll.clients.models.model_arguments import AS_NOPROP, GIVEN, GIVEN_UNLESS_SET
    from atoll.clients.noprop.noprop_settings import KINDS, VARIANTS

    variant = "dt" if name in AS_NOPROP else VARIANTS.get(name)
    if variant is not None:
        return keys_of_settings(KINDS[variant])
    return keys_of_callable(make, without=(*GIVEN, *GIVEN_UNLESS_SET))


def _keys_of_partitioner(name: str, kind: Any) -> list[Key]:
    from atoll.clients.data.partitioning.partitioners import ARGUMENTS, GIVEN

    # What a run gives a partitioner where the file does not.
    given = {"seed": "from run.seed", "partition_by": '"label"'}
    if "NaturalId" in kind.__name__:
        given["partition_by"] = '"domain" or "group", where the data set has them'
    elif name == "domain":
        given["partition_by"] = '"domain"'
    return [
        dataclasses.replace(key, default=given.get(key.name, key.default))
        for key in keys_of_callable(kind, ARGUMENTS, GIVEN)
    ]


def _keys_of_strategy(name: str, kind: Any) -> list[Key]:
    from flwr.serverapp.strategy import DifferentialPrivacyClientSideAdaptiveClipping

    from atoll.strategies.strategy_arguments import ARGUMENTS

    if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
        return keys_of_dataclass(kind)
    # Flower documents the arguments of adaptive clipping with one of its two strategies.
    twin = descriptions_of(DifferentialPrivacyClientSideAdaptiveClipping)
    return [
        key if key.about else dataclasses.replace(key, about=twin.get(key.name, ""))
        for key in keys_of_callable(kind, ARGUMENTS)
    ]


def _keys_of_mod(name: str, mod: Any) -> list[Key]:
    from atoll.clients.mods import FLOWER_ARGUMENTS

    if not inspect.isclass(mod):
        return []
    if issubclass(mod, BaseModel):
        return keys_of_settings(mod)
    return keys_of_callable(mod, FLOWER_ARGUMENTS.get(mod.__name__, {}))


def _keys_of_section(name: str, kind: Any) -> list[Key]:
    return keys_of_settings(kind)


def _keys_of_poison(name: str, kind: Any) -> list[Key]:
    from atoll.platform.config.poisoning import GIVEN
    from atoll.platform.config.sections import PoisonSettings

    if isinstance(kind, str):
        return []
    without = (*GIVEN, *PoisonSettings.model_fields)
    return [key for key in keys_of_settings(kind) if key.name not in without]


def _no_keys(name: str, entry: Any) -> list[Key]:
    return []


SOURCES = {
    "datasets": Source(_datasets, _keys_of_dataset),
    "models": Source(_models, _keys_of_model),
    "partitioners": Source(_partitioners, _keys_of_partitioner),
    "strategies": Source(_strategies, _keys_of_strategy),
    "mods": Source(_mods, _keys_of_mod),
    "personal": Source(_personal, _keys_of_section),
    "terms": Source(_terms, _keys_of_section),
    "attacks": Source(_attacks, _keys_of_section),
    "poisons": Source(_poisons, _keys_of_poison),
    "generators": Source(_generators, _no_keys),
    "priors": Source(_priors, _no_keys),
}


def names_of(kind: str) -> list[tuple[str, str]]:
    """Return the names of a kind, and one line about each.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    found = SOURCES[_kind(kind)]
    return [(name, _line_of(entry)) for name, entry in found.entries().items()]


def describe_name(kind: str, name: str) -> Named:
    """Return what a name stands for, and its keys.

    Raises
    ------
    UnknownNameError
        If there is no such kind, or no such name of that kind; the message gives the nearest.
    """
    chosen = _kind(kind)
    found = SOURCES[chosen]
    entries = found.entries()
    by_folded_name = {known.casefold(): known for known in entries}
    known = by_folded_name.get(name.casefold())
    if known is None:
        hint = closest(name, list(entries))
        raise UnknownNameError(f"atoll list {chosen} {name}: no such name; {hint}")
    entry = entries[known]
    return Named(
        known,
        _line_of(entry),
        _text_of(entry),
        KINDS[chosen].section,
        found.keys_of(known, entry),
        _takes_more(known, entry),
    )


def keys_of_kind(kind: str) -> set[str]:
    """Return the names of all keys that the names of a kind take."""
    found = SOURCES[_kind(kind)]
    return {
        key.name for name, entry in found.entries().items() for key in found.keys_of(name, entry)
    }


def names_with(kind: str, key: str) -> dict[str, Key]:
    """Return the names of a kind that take a key, each with that key."""
    found = SOURCES[_kind(kind)]
    taking = {}
    for name, entry in found.entries().items():
        for own in found.keys_of(name, entry):
            if own.name == key:
                taking[name] = own
    return taking


def _kind(name: str) -> str:
    by_folded_name = {known.casefold(): known for known in KINDS}
    known = by_folded_name.get(name.casefold()) or by_folded_name.get(f"{name.casefold()}s")
    if known is None:
        hint = closest(name, list(KINDS))
        raise UnknownNameError(f"atoll list {name}: no such kind; {hint}")
    return known


def _line_of(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    about = getattr(entry, "about", None)
    return about if isinstance(about, str) else summary_of(entry)


def _text_of(entry: Any) -> str:
    """Return a docstring's paragraphs between its first line and its lists of arguments."""
    if isinstance(entry, str) or isinstance(getattr(entry, "about", None), str):
        return ""
    lines = (inspect.getdoc(entry) or "").splitlines()[1:]
    ends = [place for place, line in enumerate(lines) if line and set(line) == {"-"}]
    kept = lines[: ends[0] - 1] if ends else lines
    paragraphs = "\n".join(kept).strip().split("\n\n")
    return plain("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))


def _takes_more(name: str, entry: Any) -> str:
    """Return the key that names what takes the other arguments, if there is one."""
    from atoll.clients.models.model_arguments import WITHIN

    if inspect.isclass(entry) or not callable(entry):
        return ""
    parameters = inspect.signature(entry).parameters
    return next((f"model.{key}" for key in WITHIN if key in parameters), "")
