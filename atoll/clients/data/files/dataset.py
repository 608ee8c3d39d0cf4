"""Data sets on disk: Arrow files, memory-mapped, shared by all processes of a machine.

A data set is decoded once into one Arrow IPC file a split. Opening it maps the file: inputs,
labels and domains are NumPy views of the mapping, and pickling a data set sends its folder only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atoll.clients.data.files.arrow_columns import map_columns, numbers_of, write_columns
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.inputs.kinds import AnyInputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.ranges import Pixels
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.kinds import AnyTask
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.files.reading import read_json

SPLITS = ("train", "test")
# Labels beside a split's file, in place of those in it.
LABELS = "{}.labels.arrow"
# The tokenizer of a data set of texts.
TOKENIZER = "tokenizer.json"
# Pixel values counted at once: NumPy makes eight bytes of each.
STATISTICS_VALUES = 2**22

Normalization = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Split:
    """Examples of a data set.

    Attributes
    ----------
    inputs : NDArray
        Shape ``(n, *stored_shape)`` of the data set's ``inputs``, read-only. Images: uint8, shape
        (n, height, width, channels). Tables: float64, shape (n, columns). Tokens: int32, shape
        (n, length).
    labels : NDArray
        What is to be predicted, shape (n, ...). Classification: int64, in 0 .. classes - 1.
        Regression and multi-label: float32. Next token: int64, shape (n, length).
    domains : NDArray[int64] or None
        Shape (n,), an index into the data set's ``domains``.
    groups : NDArray[int64] or None
        Shape (n,): what each example belongs to: the thing that images show, a table's hospital, a
        text's author. In images a group never lies on both sides of a split; in tables and texts
        it may be a natural client, with training and test examples.
    aspects : NDArray[float32] or None
        Shape (n,): width by height of what square images were made from, if not square.

    Examples
    --------
    >>> from atoll.clients import load_dataset
    >>> split = load_dataset("digits").train
    >>> split.inputs.shape, split.inputs.dtype, split.labels[:5].tolist()
    ((1437, 8, 8, 1), dtype('uint8'), [1, 2, 3, 4, 6])
    """

    inputs: NDArray[Any]
    labels: NDArray[Any]
    domains: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None
    aspects: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> NDArray[np.uint8]:
        """The inputs of a data set of images: shape (n, height, width, channels)."""
        return self.inputs

    def sha256(self) -> str:
        """Return a hash of the contents."""
        digest = hashlib.sha256(str(self.inputs.shape).encode())
        for column in (self.inputs, self.labels, self.domains, self.groups, self.aspects):
            if column is not None:
                digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Decoded:
    """A data set as its decoder returns it, before it is written to the cache.

    Attributes
    ----------
    task : Task or tuple[str, ...]
        What is predicted; names of labels stand for their classification.
    train, test : Split
        The examples.
    domains : tuple[str, ...]
        Names of the domains. A domain may have test examples only.
    inputs : Inputs or tuple of two sequences, or None
        What the inputs are. For images mean and standard deviation per channel, in units of
        [0, 1], are enough; None takes those of the training images.
    augmentation : str
        A name in :data:`~atoll.clients.data.images.augmentation.AUGMENTATIONS`.
    tokenizer : str or None
        The file of the tokenizer that made the tokens of texts.
    """

    task: AnyTask | tuple[str, ...]
    train: Split
    test: Split
    domains: tuple[str, ...] = ()
    inputs: AnyInputs | Normalization | None = None
    augmentation: str = "none"
    tokenizer: str | None = None


class _About(BaseModel):
    """``dataset.json``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    domains: list[str]
    augmentation: str = "none"
    fingerprint: str
    inputs: AnyInputs
    task: AnyTask


class _AboutImages(BaseModel):
    """``dataset.json`` as it was when all examples were images with one label."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str
    classes: list[str]
    domains: list[str]
    mean: list[float]
    std: list[float]
    augmentation: str = "none"
    fingerprint: str
    shape: Annotated[list[Pixels], Field(min_length=3, max_length=3)]

    def today(self) -> _About:
        """Return the same as it is written today."""
        height, width, channels = self.shape
        return _About(
            name=self.name,
            domains=self.domains,
            augmentation=self.augmentation,
            fingerprint=self.fingerprint,
            inputs=ImageInputs(
                image_shape=(channels, height, width), mean=tuple(self.mean), std=tuple(self.std)
            ),
            task=Classification(classes=tuple(self.classes)),
        )


class Dataset:
    """A data set in the cache, memory-mapped.

    Parameters
    ----------
    directory : Path
        Its folder, as :func:`write_dataset` made it.

    Attributes
    ----------
    name : str
        The data set's name.
    inputs : Inputs
        What an example is, and how it becomes a tensor.
    task : Task
        What is predicted, the loss and the metrics.
    domains : tuple[str, ...]
        Names of the domains (empty if it has none).
    augmentation : str
        How training images are varied: "none", or a name in
        :data:`~atoll.clients.data.images.augmentation.AUGMENTATIONS`.
    train, test : Split
        The examples.
    fingerprint : str
        A SHA-256 of the contents as they were loaded: before noise, before what clients' sums
        standardise.

    Raises
    ------
    DataUnavailableError
        If the folder is not a data set.

    Examples
    --------
    >>> from atoll.clients import load_dataset
    >>> dataset = load_dataset("rotated-digits")
    >>> dataset.domains, dataset.task.outputs, dataset.inputs.shape
    (('0', '15', '30', '45', '60', '75'), 10, (1, 8, 8))
    >>> len(dataset.train), len(dataset.test)
    (1437, 360)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        about = _read_about(self.directory / "dataset.json")
        self.name = about.name
        self.inputs = about.inputs
        self.task = about.task
        self.domains = tuple(about.domains)
        self.augmentation = about.augmentation
        self.fingerprint = about.fingerprint
        self.train = _map_split(self.directory / "train.arrow", self.inputs, self.task)
        self.test = _map_split(self.directory / "test.arrow", self.inputs, self.task)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where no class is predicted."""
        return self.task.class_names

    @property
    def images(self) -> ImageInputs:
        """The inputs of a data set of images.

        Raises
        ------
        InvalidExperimentError
            If its examples are no images.
        """
        if isinstance(self.inputs, ImageInputs):
            return self.inputs
        raise InvalidExperimentError(
            f"data.dataset = {self.name!r}: its examples are {self.inputs.described}; expected "
            "images"
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images; raises as :attr:`images`."""
        return self.images.image_shape

    @property
    def mean(self) -> tuple[float, ...]:
        """By which images are normalised, per channel; raises as :attr:`images`."""
        return self.images.mean

    @property
    def std(self) -> tuple[float, ...]:
        """By which images are normalised, per channel; raises as :attr:`images`."""
        return self.images.std

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self.directory,)


def write_dataset(name: str, decoded: Decoded, folder: Path) -> None:
    """Write a decoded data set into ``folder``, for :class:`Dataset` to open."""
    for split_name in SPLITS:
        _write_split(folder / f"{split_name}.arrow", getattr(decoded, split_name))
    about = _About(
        name=name,
        domains=list(decoded.domains),
        augmentation=decoded.augmentation,
        fingerprint=fingerprint_of(decoded),
        inputs=_inputs_of(decoded),
        task=_task_of(decoded),
    )
    if decoded.tokenizer is not None:
        (folder / TOKENIZER).write_text(decoded.tokenizer, "utf-8")
    (folder / "dataset.json").write_text(about.model_dump_json(indent=1))


def write_labels(folder: Path, split: str, labels: NDArray[Any]) -> None:
    """Write other labels beside a split's examples: they are read in place of its own."""
    write_columns(folder / LABELS.format(split), {"label": labels})


def write_about(dataset: Dataset, inputs: AnyInputs, task: AnyTask, folder: Path) -> None:
    """Write ``dataset.json`` of what is derived from a data set by an experiment's settings.

    The fingerprint stays that of the data set: settings are recorded by themselves.
    """
    about = _About(
        name=dataset.name,
        domains=list(dataset.domains),
        augmentation=dataset.augmentation,
        fingerprint=dataset.fingerprint,
        inputs=inputs,
        task=task,
    )
    (folder / "dataset.json").write_text(about.model_dump_json(indent=1))


def _read_about(path: Path) -> _About:
    try:
        return read_json(path, _About, error=DataUnavailableError)
    except DataUnavailableError:
        try:
            return read_json(path, _AboutImages, error=DataUnavailableError).today()
        except DataUnavailableError:
            pass
        raise


def _task_of(decoded: Decoded) -> AnyTask:
    task = decoded.task
    return Classification(classes=task) if isinstance(task, tuple) else task


def _inputs_of(decoded: Decoded) -> AnyInputs:
    given, images = decoded.inputs, decoded.train.inputs
    if isinstance(given, ImageInputs | TableInputs | TokenInputs):
        return given
    mean, std = given or channel_statistics(images)
    _, height, width, channels = images.shape
    return ImageInputs(image_shape=(channels, height, width), mean=tuple(mean), std=tuple(std))


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, in units of [0, 1].

    They are computed from counts of the 256 values, so data sets larger than memory will do.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    at_once = max(1, STATISTICS_VALUES // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), at_once):
        rows = images[start : start + at_once].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(rows[:, channel], minlength=256)
    values = np.arange(256) / 255
    total = np.maximum(counts.sum(axis=1), 1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean.tolist(), np.sqrt(variance).tolist()


def fingerprint_of(decoded: Decoded) -> str:
    """Return the SHA-256 of a data set's decoded contents, the same for any source."""
    parts = decoded.train.sha256() + decoded.test.sha256() + (decoded.tokenizer or "")
    return hashlib.sha256(parts.encode()).hexdigest()


def _write_split(path: Path, split: Split) -> None:
    write_columns(
        path,
        {
            "input": split.inputs,
            "label": split.labels,
            "domain": split.domains,
            "group": split.groups,
            "aspect": split.aspects,
        },
    )


def _map_split(path: Path, inputs: AnyInputs, task: AnyTask) -> Split:
    batch, others = map_columns(path), path.parent / LABELS.format(path.stem)
    labels = (map_columns(others) if others.exists() else batch).column("label")
    names = batch.schema.names
    # Images were once the only inputs.
    stored = batch.column("input" if "input" in names else "image")
    targets = task.blank_targets(1).numpy()

    def optional(name: str, kind: type[np.generic]) -> NDArray[Any] | None:
        return numbers_of(batch.column(name), kind, ()) if name in names else None

    return Split(
        inputs=numbers_of(stored, inputs.stored_dtype, inputs.stored_shape),
        labels=numbers_of(labels, targets.dtype.type, targets.shape[1:]),
        domains=optional("domain", np.int64),
        groups=optional("group", np.int64),
        aspects=optional("aspect", np.float32),
    )
