"""Trained generators in the cache: one a data set, split and settings.

Clients hold training examples, so by default a generator is trained on the test split: it has seen
nothing that a client of any run has. Victims from the test split want one trained on the training
split. Hashes of the images that it has seen stay with it, so an overlap can always be told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from atoll.attacks.generators.checkpoints import fill
from atoll.attacks.generators.conditional import ConditionalGenerator
from atoll.attacks.generators.network_training import finish_training
from atoll.attacks.generators.vae_training import GeneratorTraining, TrainingSettings
from atoll.clients.data.files.cache import cache_root
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.ranges import Count, Pixels
from atoll.errors import DataUnavailableError
from atoll.files.atomic import appearing
from atoll.files.digests import sha256_of_json
from atoll.files.reading import read_json

SplitName = Literal["test", "train"]
WEIGHTS, ABOUT, SEEN = "weights.safetensors", "generator.json", "seen"
# Bump to forget generators that older code has trained.
FORMAT = 1


class About(BaseModel):
    """``generator.json``: what a generator is of."""

    model_config = ConfigDict(extra="ignore", strict=True)

    dataset: str
    split: str
    image_shape: Annotated[list[Pixels], Field(min_length=3, max_length=3)]
    classes: Count
    settings: dict[str, Any]


class GeneratorSettings(TrainingSettings):
    """Choice of one of a data set's generators.

    Attributes
    ----------
    split : "test" or "train"
        What it was trained on.
    """

    split: SplitName = "test"


class TrainedGenerator(ConditionalGenerator):
    """A generator from the cache.

    Attributes
    ----------
    seen : NDArray[uint64]
        Hashes of the images that it was trained on, ascending.
    """

    seen: NDArray[np.uint64]

    def has_seen(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tell which of images (n, height, width, channels) it was trained on: shape (n,)."""
        return np.isin(image_hashes(images), self.seen)


def image_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a hash of each image's pixels: shape (n,)."""
    digests = [hashlib.blake2b(np.ascontiguousarray(i).data, digest_size=8) for i in images]
    return np.frombuffer(b"".join(digest.digest() for digest in digests), np.uint64)


def generator_folder(dataset: Dataset, settings: TrainingSettings, split: SplitName) -> Path:
    """Return where the generator of these is kept, whether it is there or not."""
    described = {
        "format": FORMAT,
        "dataset": dataset.fingerprint,
        "split": split,
        "settings": settings.model_dump(mode="json"),
    }
    digest = sha256_of_json(described)
    return _kept() / f"{dataset.name}-{digest[:16]}"


def train_generator(
    dataset: Dataset,
    settings: TrainingSettings,
    split: SplitName = "test",
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train a generator, or resume an interrupted training, unless it is in the cache.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    settings : TrainingSettings
        Steps and sizes.
    split : "test" or "train"
        Which of its examples the generator sees.
    on_step : callable, optional
        Told how many steps are done, and the loss in nats a pixel.

    Returns
    -------
    Path
        The folder that :func:`load_trained` reads.

    Raises
    ------
    InvalidExperimentError
        If the images have a size that it cannot make.
    """
    folder = generator_folder(dataset, settings, split)
    if (folder / ABOUT).is_file():
        return folder
    examples = dataset.test if split == "test" else dataset.train
    train_into(folder, dataset, examples.images, examples.labels, settings, split, on_step=on_step)
    return folder


def train_into(
    folder: Path,
    dataset: Dataset,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: TrainingSettings,
    split: SplitName,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a generator on some of a data set's examples, or resume an interrupted training.

    Parameters
    ----------
    folder : Path
        A new one, which is the generator's.
    dataset : Dataset
        The data set.
    images : NDArray[uint8]
        Shape (n, height, width, channels): those that the generator sees.
    labels : NDArray[int64]
        Shape (n,).
    settings : TrainingSettings
        Steps and sizes.
    split : "test" or "train"
        Which the examples are of.
    on_step : callable, optional
        Told how many steps are done, and the loss in nats a pixel.
    """
    training = GeneratorTraining(images, labels, len(dataset.classes), settings)
    partial = folder.with_name(f".{folder.name}.safetensors")
    finish_training(training, settings.steps, partial, on_step)
    generator = training.finish()
    about = {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": split,
        "examples": len(images),
        "image_shape": generator.image_shape,
        "classes": generator.classes,
        "settings": settings.model_dump(mode="json"),
    }
    write_trained(folder, generator, np.sort(image_hashes(images)), about)
    partial.unlink(missing_ok=True)


def write_trained(
    folder: Path, generator: nn.Module, seen: NDArray[np.uint64], about: Mapping[str, Any]
) -> None:
    """Write a generator's folder, which appears as a whole.

    Parameters
    ----------
    folder : Path
        A new one.
    generator : nn.Module
        The generator.
    seen : NDArray[uint64]
        Hashes of the images that it was trained on, ascending.
    about : Mapping
        For ``generator.json``.
    """
    with appearing(folder) as made:
        weights = {**generator.state_dict(), SEEN: torch.from_numpy(seen)}
        save_file(weights, made / WEIGHTS)
        (made / ABOUT).write_text(json.dumps(dict(about), indent=1))


def read_about(folder: Path) -> About:
    """Return what the generator in a folder is of.

    Raises
    ------
    DataUnavailableError
        If there is none.
    """
    return read_json(folder / ABOUT, About, error=DataUnavailableError)


def find_trained(name: str) -> Path:
    """Return the folder of a generator: itself, or that of a data set's with default settings.

    Raises
    ------
    DataUnavailableError
        If there is none.
    """
    folder = Path(name).expanduser()
    return folder if (folder / ABOUT).is_file() else _find(name, GeneratorSettings())


def load_trained(
    name: str, path: Path | None = None, wanted: GeneratorSettings | None = None
) -> TrainedGenerator:
    """Return the generator that was trained on a data set.

    Parameters
    ----------
    name : str
        The data set's.
    path : Path, optional
        The generator's folder; by default it is found in the cache.
    wanted : GeneratorSettings, optional
        How it was trained; by default as 'atoll train-generator' does without settings.

    Raises
    ------
    DataUnavailableError
        If there is none, or it cannot be read.
    """
    folder = _find(name, wanted or GeneratorSettings()) if path is None else path
    try:
        about = read_about(folder)
        weights = load_file(folder / WEIGHTS)
        channels, height, width = about.image_shape
        settings = TrainingSettings.model_validate(about.settings)
        classes, seen = about.classes, weights.pop(SEEN)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataUnavailableError(f"{folder}: is not a trained generator ({error})") from error
    generator = fill(
        lambda: TrainedGenerator(
            (channels, height, width), classes, settings.latent, settings.width
        ),
        weights,
        str(folder / WEIGHTS),
        f"a generator of {channels}x{height}x{width} images of {classes} classes",
    )
    generator.seen = seen.numpy()
    return generator


def _find(name: str, wanted: GeneratorSettings) -> Path:
    """Return the folder of a data set's generator; those that there are, are named if not."""
    others = []
    for place in sorted(_kept().glob(f"{name}-*/{ABOUT}")):
        about = read_about(place.parent)
        if about.dataset != name:
            continue
        found = {"split": about.split, **about.settings}
        if found == wanted.model_dump(mode="json"):
            return place.parent
        others.append(f"{_described(found) or 'the default'} ({place.parent})")
    asked = _described(wanted.model_dump(mode="json"))
    options = " ".join(_options(wanted))
    raise DataUnavailableError(
        f"there is no generator of {name}{asked and f' with {asked}'}; expected one trained by "
        f"'atoll train-generator {name}{options and f' {options}'}'"
        + (
            f", or generator_settings or generator_path of one in the cache: {'; '.join(others)}"
            if others
            else ""
        )
    )


def _described(settings: Mapping[str, Any]) -> str:
    """Return what differs from the default settings."""
    defaults = GeneratorSettings().model_dump(mode="json")
    return ", ".join(f"{k} = {v}" for k, v in settings.items() if v != defaults.get(k))


def _options(wanted: GeneratorSettings) -> list[str]:
    """Return the options of 'atoll train-generator' that lead to it."""
    defaults = GeneratorSettings()
    changed = {k: v for k, v in wanted.model_dump().items() if v != getattr(defaults, k)}
    own = [f"--{key} {changed.pop(key)}" for key in ("split", "seed") if key in changed]
    return own + [f"--set {key}={value}" for key, value in changed.items()]


def _kept() -> Path:
    return cache_root() / "generators"
