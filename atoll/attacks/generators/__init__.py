"""Generators of images, by name; the user's own are given as ``module:callable``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.registry import Registry

if TYPE_CHECKING:
    from atoll.attacks.generators.staged_generator import StagedGenerator

# Those from elsewhere; ours go by the name of the data set that they were trained on.
GENERATORS: Registry[Callable[[Path | None], StagedGenerator]] = Registry(
    "generator",
    {
        "biggan-deep": "atoll.attacks.generators.biggan:load_biggan",
        "stylegan2": "atoll.attacks.generators.stylegan2:load_stylegan2",
        "progressive-faces": "atoll.attacks.generators.progressive:load_progressive_gan",
    },
)
