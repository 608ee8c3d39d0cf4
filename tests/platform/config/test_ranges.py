"""Every number that an experiment, a sweep, an arena or an attack can be given has a range."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from flwr.clientapp.mod import LocalDpMod
from pydantic import TypeAdapter, ValidationError

import atoll
from atoll.attacks import ATTACKS
from atoll.attacks.defenses import DEFENSES
from atoll.clients.models import MODELS
from atoll.clients.models.model_arguments import GIVEN, GIVEN_UNLESS_SET, check_arguments
from atoll.clients.mods import FLOWER_ARGUMENTS
from atoll.clients.ranges import CONFIG
from atoll.clients.settings import ModelSettings, Section
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_settings
from atoll.strategies import STRATEGIES
from atoll.strategies.strategy_arguments import ARGUMENTS

LOWER, UPPER = ("gt", "ge"), ("lt", "le")
# What is passed on as it is, and checked where it is used.
UNCHECKED = {
    "DataSettings.options": "a data set's own options: a Section each",
    "SweepSettings.grid": "values of an experiment's keys",
    "SweepSettings.random": "distributions: Range",
    "SweepSettings.variants": "tables of an experiment",
    "ArenaSettings.grid": "values of an experiment's keys",
    "ArenaSettings.attacks": "attacks' settings: a Section each",
    "ArenaSettings.defenses": "tables of an experiment",
}


def import_everything() -> None:
    for module in pkgutil.walk_packages(atoll.__path__, "atoll."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def below(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


import_everything()
SECTIONS = sorted(
    {k for k in below(Section) if k.__module__.startswith("atoll.")}, key=lambda k: k.__name__
)


def numbers(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[type, set[str]]]:
    """Yield each number in an annotation, with the limits that it has."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *own = get_args(annotation)
        yield from numbers(inner, tuple(own))
    elif origin in (typing.Union, types.UnionType):
        for part in get_args(annotation):
            yield from numbers(part, metadata)
    elif annotation in (int, float):
        limits = {
            limit
            for item in metadata
            for part in getattr(item, "metadata", [item])
            for limit in (*LOWER, *UPPER)
            if getattr(part, limit, None) is not None
        }
        yield annotation, limits
    elif origin is not None and origin is not typing.Literal:
        for part in get_args(annotation):
            yield from numbers(part)


def without_range(name: str, annotation: Any, metadata: Any = ()) -> list[str]:
    return [
        f"{name}: {kind.__name__} with {sorted(limits) or 'no limits'}"
        for kind, limits in numbers(annotation, tuple(metadata))
        if not (limits & set(LOWER) and limits & set(UPPER))
    ]


def test_every_number_of_every_settings_class_has_both_limits() -> None:
    assert len(SECTIONS) > 45
    missing = [
        line
        for kind in SECTIONS
        for name, field in kind.model_fields.items()
        if f"{kind.__name__}.{name}" not in UNCHECKED
        for line in without_range(f"{kind.__name__}.{name}", field.annotation, field.metadata)
    ]
    assert missing == []


def test_every_number_of_every_strategy_has_both_limits() -> None:
    missing = []
    for name in STRATEGIES:
        kind = STRATEGIES[name]
        if dataclasses.is_dataclass(kind):
            hints = get_type_hints(kind, include_extras=True)
            for field in dataclasses.fields(kind):
                missing += without_range(f"{name}.{field.name}", hints[field.name])
            continue
        for parameter in inspect.signature(kind).parameters.values():
            words = set(re.findall(r"[A-Za-z]+", str(parameter.annotation)))
            is_number = words & {"int", "float"} and "Callable" not in words
            if is_number and parameter.name not in ARGUMENTS:
                missing.append(f"{name}.{parameter.name}: in no table")
    for name, annotation in ARGUMENTS.items():
        missing += without_range(name, annotation)
    assert missing == []


def test_every_number_of_every_model_has_both_limits() -> None:
    missing = []
    for name in MODELS:
        make = MODELS[name]
        for argument, hint in get_type_hints(make, include_extras=True).items():
            if argument not in (*GIVEN, *GIVEN_UNLESS_SET, "arguments", "return"):
                missing += without_range(f"{name}.{argument}", hint)
    assert missing == []


def test_every_argument_of_flowers_mods_has_both_limits() -> None:
    assert set(inspect.signature(LocalDpMod).parameters) == set(FLOWER_ARGUMENTS["LocalDpMod"])
    for name, arguments in FLOWER_ARGUMENTS.items():
        for argument, hint in arguments.items():
            assert without_range(f"{name}.{argument}", hint) == []


# --- values ---------------------------------------------------------------------------------------

NONSENSE: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -float("inf"),
    1e300,
    -1e300,
    10**400,
    -(10**400),
    -1e-300,
)


def fields_with_numbers() -> Iterator[tuple[type[Section], str]]:
    for kind in SECTIONS:
        for name, field in kind.model_fields.items():
            if f"{kind.__name__}.{name}" not in UNCHECKED and any(numbers(field.annotation)):
                yield kind, name


@pytest.mark.parametrize(
    ("kind", "name"), fields_with_numbers(), ids=lambda v: getattr(v, "__name__", v)
)
def test_no_number_beyond_all_bounds_is_taken(kind: type[Section], name: str) -> None:
    field = kind.model_fields[name]
    whole = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    adapter = TypeAdapter(whole, config=CONFIG)
    for value in NONSENSE:
        if value == -1e-300 and _takes(adapter, -1.0):
            continue
        for given in (value, [value], [value, value]):
            assert not _takes(adapter, given)
    # A number that must be above 0 is not as good as 0.
    is_positive = all("gt" in limits for _, limits in numbers(field.annotation, field.metadata))
    with_zero = _takes(adapter, 0.0) or _takes(adapter, 0)
    if is_positive or not with_zero:
        for tiny in (1e-300, 5e-324):
            assert not _takes(adapter, tiny)


def _takes(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


PLACES = [
    ("run", "rounds"),
    ("run", "round_timeout"),
    ("data", "clients"),
    ("data", "train_examples"),
    ("data", "client_test_fraction"),
    ("client", "learning_rate"),
    ("client", "weight_decay"),
    ("client", "gradient_clip"),
    ("client", "timeout"),
    ("client", "steps"),
    ("client", "epochs"),
    ("client", "batch_size"),
    ("client", "proximal_mu"),
    ("client", "momentum"),
    ("ray", "workers"),
    ("ray", "cpus_per_worker"),
    ("ray", "threads_per_worker"),
    ("strategy", "fraction_train"),
    ("strategy", "min_available_nodes"),
]


@pytest.mark.parametrize(("section", "key"), PLACES, ids=".".join)
def test_it_is_one_line_that_names_the_key(section: str, key: str) -> None:
    for value in NONSENSE:
        with pytest.raises(InvalidExperimentError) as caught:
            check_settings(Experiment.from_dict({section: {key: value}}))
        assert len(str(caught.value).splitlines()) == 1
        assert str(caught.value).startswith(f"{section}.{key} = ")


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"client": {"timeout": 1e-9}}, "client.timeout = 1e-09: expected "),
        ({"client": {"weight_decay": 1e300}}, "client.weight_decay = 1e+300: expected "),
        ({"client": {"gradient_clip": 1e-300}}, "client.gradient_clip = 1e-300: expected "),
        ({"client": {"steps": 10**12}}, "client.steps = 1000000000000: expected "),
        ({"model": {"name": "noprop-ct", "steps": 300000}}, "model.steps = 300000: expected "),
        ({"model": {"name": "noprop-dt", "steps": 300000}}, "model.steps = 300000: expected "),
        ({"strategy": {"name": "IRM", "penalty_weight": 1e40}}, "strategy.penalty_weight = 1e+40"),
        ({"strategy": {"name": "FedAdam", "eta": 1e-300}}, "strategy.eta = 1e-300: expected "),
        ({"model": {"name": "mlp", "hidden": [10**9]}}, "model.hidden = [1000000000]: expected "),
        (
            {"client": {"mods": [{"name": "dp-sgd", "delta": 1.0}]}},
            "client.mods has 'dp-sgd' with delta = 1.0: expected less than 1",
        ),
        (
            {"client": {"mods": [{"name": "gaussian-noise", "std": 1e300}]}},
            "client.mods has 'gaussian-noise' with std = 1e+300: expected ",
        ),
        (
            {
                "client": {
                    "mods": [
                        {
                            "name": "LocalDpMod",
                            "clipping_norm": 1e-300,
                            "sensitivity": 1.0,
                            "epsilon": 1.0,
                            "delta": 1e-5,
                        }
                    ]
                }
            },
            "client.mods has 'LocalDpMod' with clipping_norm = 1e-300: expected ",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_was_taken_and_changed_nothing_is_refused(tables: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        check_settings(Experiment.from_dict(tables))
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", [*ATTACKS])
def test_an_attacks_defaults_lie_within_its_ranges(name: str) -> None:
    kind = ATTACKS[name]
    needed = {f: "mnist" for f, field in kind.model_fields.items() if field.is_required()}
    settings = kind(**needed)
    assert kind(**settings.model_dump()) == settings


def test_defaults_of_defenses_and_models_lie_within_their_ranges() -> None:
    for name in DEFENSES:
        defense = DEFENSES[name]()
        assert DEFENSES[name](**defense.model_dump()) == defense
    for name in MODELS:
        check_arguments(ModelSettings(name=name))
