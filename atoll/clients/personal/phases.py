"""Training of some of a model's parameters while the others are held."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from atoll.clients.personal.method import PersonalClient


@contextmanager
def trained_only(client: PersonalClient, names: Collection[str]) -> Iterator[None]:
    """Within this context, only the trained parameters of these names require a gradient."""
    parameters = client.parameters
    held = [parameter for name, parameter in parameters.items() if name not in names]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
