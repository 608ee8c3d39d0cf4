"""Every name that users can choose leads to something."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import atoll
from atoll.registry import Registry


def registries() -> dict[int, Registry[object]]:
    found = {}
    for module in pkgutil.walk_packages(atoll.__path__, "atoll."):
        if not module.name.endswith("__main__"):
            for value in list(vars(importlib.import_module(module.name)).values()):
                if isinstance(value, Registry):
                    found[id(value)] = value
    return found


ALL = list(registries().values())


def test_there_are_registries() -> None:
    assert len(ALL) >= 6


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_every_name_leads_to_something(registry: Registry[object]) -> None:
    assert len(registry) > 0
    assert all(registry.find(name, "name") is not None for name in registry)
