"""The reference of keys: complete, true to the settings classes, and found by name."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from atoll.errors import InvalidExperimentError, UnknownNameError
from atoll.platform.config.experiment import Experiment
from atoll.platform.reference.experiment_keys import (
    all_keys,
    find,
    sections,
)
from atoll.platform.reference.key import REQUIRED, SECTION, UNSET
from atoll.platform.reference.settings_classes import described_sections, settings_classes
from atoll.validation import validated

TABLES = {name for name in sections() if name in all_keys()}


def fields_of(kind: Any) -> Iterator[str]:
    yield from kind.model_fields


def test_every_field_of_every_section_is_a_key() -> None:
    for section, kind in settings_classes().items():
        assert [key.name for key in sections()[section].keys] == list(kind.model_fields)
    assert set(Experiment.model_fields) <= set(sections())


def test_the_file_of_keys_is_what_the_settings_classes_say() -> None:
    assert sections() == described_sections(), "run: python -m atoll.platform.reference"


@pytest.mark.parametrize("name", all_keys())
def test_a_key_has_a_meaning_and_an_example(name: str) -> None:
    key = all_keys()[name]
    assert len(key.about) > 5, f"{name} has no description in its class's docstring"
    assert key.type
    if name not in TABLES:
        assert key.example, f"{name} has neither a default to show nor Field(examples=[...])"


@pytest.mark.parametrize("section", sections())
def test_a_section_says_what_it_is_for(section: str) -> None:
    assert len(sections()[section].about) > 5


@pytest.mark.parametrize("name", [name for name in all_keys() if name not in TABLES])
def test_an_example_is_taken_and_a_default_is_the_default(name: str) -> None:
    section, _, own = name.rpartition(".")
    kind, key = settings_classes()[section], all_keys()[name]
    value = tomllib.loads(f"{own} = {key.example}")[own]
    required = {
        field.name: tomllib.loads(f"x = {field.example}")["x"]
        for field in sections()[section].keys
        if field.default == REQUIRED
    }
    made = validated(kind, {**required, own: value})
    if key.default not in (UNSET, REQUIRED, SECTION):
        default = tomllib.loads(f"x = {key.default}")["x"]
        assert getattr(validated(kind, {**required, own: default}), own) == getattr(
            validated(kind, required), own
        )
    assert getattr(made, own) is not None


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("client.learning_rate", [0.0, 1e7]),
        ("client.momentum", [-0.1, 1.0]),
        ("run.rounds", [0, 10_000_001]),
        ("run.seed", [-1]),
        ("data.clients", [0]),
    ],
)
def test_a_range_is_the_one_that_is_checked(name: str, outside: list[Any]) -> None:
    section, _, own = name.rpartition(".")
    for value in outside:
        with pytest.raises(InvalidExperimentError):
            validated(settings_classes()[section], {own: value})


def test_ranges_in_words() -> None:
    keys = all_keys()
    assert keys["client.gradient_clip"].range == "1e-6 to 1e12"
    assert keys["client.momentum"].range == "0 to below 1"
    assert keys["run.rounds"].range == "1 to 10,000,000"
    assert keys["client.optimizer"].type == '"sgd", "adam" or "adamw"'
    assert keys["capture.rounds"].values == "list of integer, each 1 to 10,000,000"
    assert keys["sweep.early_stopping.reduction_factor"].range == "over 1 to 1e6"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("client.gradient_clip", "client.gradient_clip"),
        ("Client.Gradient_Clip", "client.gradient_clip"),
        ("gradient_clip", "client.gradient_clip"),
        ("[client.schedule]", "client.schedule"),
        ("client", "client"),
    ],
)
def test_a_key_is_found(asked: str, found: str) -> None:
    assert find(asked) == found


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("client.gradient_clp", "did you mean 'client.gradient_clip'?"),
        ("gradient_clp", "did you mean 'client.gradient_clip'?"),
        ("clint", "did you mean 'client'?"),
        ("xyzzy", "'atoll explain' lists the sections"),
        ("patience", "run.early_stopping.patience"),
    ],
)
def test_a_typo_is_answered_with_the_nearest(asked: str, answer: str) -> None:
    if asked == "patience":
        assert find(asked) == answer
        return
    with pytest.raises(UnknownNameError) as error:
        find(asked)
    assert answer in str(error.value)
    assert "\n" not in str(error.value)
