"""Mods of a client's examples: they change what a client trains on, as poisoned data do.

A Flower mod sees messages. One that must change a client's examples calls the app within
:func:`on_examples`; our clients hand their examples to :func:`changed_examples` before they train
on them, or measure their moments. A user's ClientApp can do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# Takes inputs, shape (n, ...), and labels, shape (n, ...); returns as many of both.
ExampleMod = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ActiveExampleMod:
    """A mod of examples that is in force.

    Attributes
    ----------
    mod : ExampleMod
        The mod.
    was_asked_for : bool
        Whether some client has asked for it.
    """

    def __init__(self, mod: ExampleMod) -> None:
        self.mod = mod
        self.was_asked_for = False


_active: ContextVar[tuple[ActiveExampleMod, ...]] = ContextVar("mods of examples", default=())


@contextmanager
def on_examples(mod: ExampleMod) -> Iterator[ActiveExampleMod]:
    """Within this context, clients in this thread use examples as ``mod`` changes them."""
    entry = ActiveExampleMod(mod)
    token = _active.set((*_active.get(), entry))
    try:
        yield entry
    finally:
        _active.reset(token)


def has_example_mods() -> bool:
    """Tell whether a mod of examples is in force."""
    return bool(_active.get())


def changed_examples(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return examples as the mods in force change them, the innermost first."""
    for entry in reversed(_active.get()):
        entry.was_asked_for = True
        inputs, labels = entry.mod(inputs, labels)
    return inputs, labels
