"""Every name that experiment files can use, described from what it stands for.

This imports all of that, PyTorch too, which takes seconds: :mod:`atoll.platform.reference.names`
reads the descriptions from a file.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from atoll.platform.reference.docstrings import descriptions_of, plain, summary_of
from atoll.platform.reference.key import Key
from atoll.platform.reference.keys import (
    keys_of_callable,
    keys_of_dataclass,
    keys_of_settings,
)
from atoll.platform.reference.kinds import KINDS
from atoll.platform.reference.named import Named

KeysOf = Callable[[str, Any], list[Key]]


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


def described_names() -> dict[str, dict[str, Named]]:
    """Return every name by its kind and itself."""
    return {
        kind: {
            name: Named(
                name,
                _line_of(entry),
                _text_of(entry),
                KINDS[kind].section,
                tuple(source.keys_of(name, entry)),
                _takes_more(name, entry),
            )
            for name, entry in source.entries().items()
        }
        for kind, source in SOURCES.items()
    }


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
