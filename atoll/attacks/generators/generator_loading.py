"""Loading of a generator by name and path, as an attack's settings give them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from atoll.attacks.generators import GENERATORS
from atoll.attacks.generators.resized import Resized
from atoll.attacks.generators.staged_generator import StagedGenerator
from atoll.attacks.generators.trained_generator import GeneratorSettings, load_trained
from atoll.clients.data.catalog.loading import DATASETS
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError, UnknownNameError

NEED_A_PATH = ("biggan-deep", "stylegan2")


@lru_cache(maxsize=4)
def load_generator(
    name: str,
    path: Path | None = None,
    device: str = "cpu",
    wanted: GeneratorSettings | None = None,
) -> StagedGenerator:
    """Return a generator; the same object for the same arguments.

    Parameters
    ----------
    name : str
        A data set's name, for the generator that ``atoll train-generator`` has trained on it; the
        folder of one of these, with a slash in its path; a name in :data:`GENERATORS`; or
        ``module:callable``, which is called with the path.
    path : Path, optional
        Where its weights are; "biggan-deep" and "stylegan2" need it.
    device : str
        Where it computes.
    wanted : GeneratorSettings, optional
        Of a data set's generators, how the wanted one was trained.

    Raises
    ------
    UnknownNameError
        If there is no such generator.
    InvalidExperimentError
        If it needs a path and has none, or is not a :class:`StagedGenerator`.
    DataUnavailableError
        If its weights cannot be had or are not its.
    """
    if os.sep in name:
        return load_trained(name, Path(name).expanduser()).to(device)
    if name.casefold() in DATASETS:
        return load_trained(name.casefold(), path, wanted).to(device)
    if ":" not in name and name.casefold() not in GENERATORS:
        known = [*GENERATORS, *DATASETS]
        raise UnknownNameError(f"generator = {name!r}: no such generator; {closest(name, known)}")
    if name.casefold() in NEED_A_PATH and path is None:
        raise InvalidExperimentError(
            f"generator_path is not set; expected the path of a checkpoint for generator = {name!r}"
        )
    loaded = GENERATORS.find(name, "generator")(path)
    if not isinstance(loaded, StagedGenerator):
        raise InvalidExperimentError(
            f"generator = {name!r}: it returned a {type(loaded).__name__}, expected a "
            "StagedGenerator"
        )
    return loaded.eval().requires_grad_(False).to(device)


def fitted(generator: StagedGenerator, image_shape: tuple[int, int, int]) -> StagedGenerator:
    """Return the generator with its images resized, unless they have that size already."""
    if generator.image_shape == image_shape or generator.image_shape[0] != image_shape[0]:
        return generator
    return Resized(generator, *image_shape[1:]).eval()
