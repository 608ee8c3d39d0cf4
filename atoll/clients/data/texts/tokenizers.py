"""Tokenizers of data sets: one of characters, or one of subwords from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.files.dataset import TOKENIZER, Dataset
from atoll.clients.data.texts.characters import KIND, CharacterTokenizer
from atoll.clients.data.texts.minilm import minilm_file
from atoll.clients.data.texts.subwords import SubwordTokenizer
from atoll.errors import DataUnavailableError

CHARACTERS, MINILM = "characters", "minilm"


class Tokenizer(Protocol):
    """A way from texts to tokens and back."""

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""

    @property
    def padding(self) -> int:
        """The token of places without one."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return all tokens of a text."""

    def sequences(self, texts: Sequence[str], length: int) -> NDArray[np.int32]:
        """Return texts cut to ``length`` tokens and padded: int32, shape (n, length)."""

    def decode(self, tokens: NDArray[np.int32]) -> str:
        """Return the text of some tokens, without padding."""

    def to_json(self) -> str:
        """Return the tokenizer's file."""


def make_tokenizer(name: str, training_texts: Sequence[str]) -> Tokenizer:
    """Return a tokenizer by its name in ``[data.options]``.

    Parameters
    ----------
    name : str
        "characters" (those of the training texts), "minilm" (its subwords, fetched once), or the
        path of a ``tokenizer.json``.
    training_texts : Sequence[str]
        Texts of the training examples.

    Raises
    ------
    DataUnavailableError
        If the file is not there, or is no tokenizer.
    """
    if name == CHARACTERS:
        return CharacterTokenizer.of_texts(training_texts)
    return SubwordTokenizer(read_file(tokenizer_path(name)))


def tokenizer_path(name: str) -> Path:
    """Return the file of a tokenizer of subwords, by its name in ``[data.options]``."""
    return minilm_file("tokenizer.json") if name == MINILM else Path(name).expanduser()


def read_file(path: Path) -> str:
    """Return the contents of a tokenizer's file, or of the one in a folder.

    Raises
    ------
    DataUnavailableError
        If it cannot be read.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnavailableError(
            f"data.options.tokenizer = {str(path)!r}: cannot be read ({error}); expected "
            "'characters', 'minilm' or the path of a tokenizer.json"
        ) from error


def tokenizer_of(dataset: Dataset) -> Tokenizer:
    """Return the tokenizer that a data set of texts was made with.

    Parameters
    ----------
    dataset : Dataset
        Of texts.

    Raises
    ------
    DataUnavailableError
        If the data set has none, or it cannot be read.

    Examples
    --------
    >>> from atoll.clients import load_dataset, tokenizer_of
    >>> shakespeare = load_dataset("shakespeare")  # doctest: +SKIP
    >>> tokenizer_of(shakespeare).decode(shakespeare.train.inputs[0])  # doctest: +SKIP
    """
    path = dataset.directory / TOKENIZER
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DataUnavailableError(
            f"{path}: cannot be read ({error}); expected a data set of texts"
        ) from error
    try:
        described = json.loads(text)
        if described.get("kind") == KIND:
            return CharacterTokenizer(str(described["characters"]))
    except (ValueError, AttributeError, KeyError) as error:
        raise DataUnavailableError(f"{path}: is no tokenizer ({error})") from error
    return SubwordTokenizer(text)
