"""Tokenizer of subwords, from a ``tokenizer.json`` of the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.texts.sequences import padded
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.extras import OptionalModule

_library = OptionalModule("tokenizers", "a tokenizer of subwords")

# Names of the padding token, where the file does not say which it is.
PADDING_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")


class SubwordTokenizer:
    """Tokenizer of subwords; needs the extra ``atoll[transformers]``.

    Parameters
    ----------
    description : str
        The contents of a ``tokenizer.json``.

    Raises
    ------
    InvalidExperimentError
        If the library is not there.
    DataUnavailableError
        If it does not read it.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._tokenizer = _read(description)

    @cached_property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def padding(self) -> int:
        """The token of places without one."""
        given = self._tokenizer.padding
        if given is not None:
            return int(given["pad_id"])
        found = map(self._tokenizer.token_to_id, PADDING_NAMES)
        return next((token for token in found if token is not None), 0)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return all tokens of a text: int32."""
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        return np.array(self._tokenizer.encode(text).ids, np.int32)

    def sequences(self, texts: Sequence[str], length: int) -> NDArray[np.int32]:
        """Return the texts cut to ``length`` tokens and padded: int32, shape (n, length).

        A tokenizer that ends a text with a token of its own does so in a cut one, too.
        """
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        done = self._tokenizer.encode_batch(list(texts))
        return padded([np.array(one.ids, np.int32) for one in done], length, self.padding)

    def decode(self, tokens: NDArray[np.int32]) -> str:
        """Return the text of some tokens, without special ones."""
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True))

    def to_json(self) -> str:
        """Return the tokenizer's file."""
        return self._description


def _read(description: str) -> Any:
    try:
        return _library.Tokenizer.from_str(description)
    except InvalidExperimentError:
        raise
    except Exception as error:
        # The library raises Exception itself.
        raise DataUnavailableError(f"tokenizer.json: cannot be read ({error})") from error
