"""Check for methods whose local steps are plain gradient steps of their own."""

from __future__ import annotations

from atoll.clients.settings import ClientSettings

# Key, and the only value that such steps know.
PLAIN = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "proximal_mu": 0.0,
    "gradient_clip": None,
}


def check_plain_steps(settings: ClientSettings, name: str) -> None:
    """Refuse settings of steps that a method's own steps do not have.

    Raises
    ------
    ValueError
        With the first such key, its value and what was expected.
    """
    for key, plain in PLAIN.items():
        value = getattr(settings, key)
        if value != plain:
            expected = "it left out" if plain is None else f"{plain!r}"
            raise ValueError(
                f"client.{key} = {value!r}: {name} takes plain gradient steps of its own; "
                f"expected {expected}"
            )
