"""Tokenizer of characters, with the vocabulary of some texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.texts.sequences import padded

KIND = "characters"
PADDING, UNKNOWN, FIRST = 0, 1, 2
# What an unknown character is decoded as.
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class CharacterTokenizer:
    """Tokenizer with a token for each character of a vocabulary.

    Token 0 is padding, 1 every character that is not in the vocabulary.

    Attributes
    ----------
    characters : str
        The vocabulary, by code point: the first has token 2.

    Examples
    --------
    >>> tokenizer = CharacterTokenizer.of_texts(["to be"])
    >>> tokenizer.encode("bet?").tolist(), tokenizer.vocabulary
    ([3, 4, 6, 1], 7)
    >>> tokenizer.decode(tokenizer.encode("be"))
    'be'
    """

    characters: str

    @classmethod
    def of_texts(cls, texts: Iterable[str], minimum: int = 1) -> CharacterTokenizer:
        """Return the tokenizer of all characters that occur at least ``minimum`` times."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return cls("".join(sorted(c for c, count in counts.items() if count >= minimum)))

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return FIRST + len(self.characters)

    @property
    def padding(self) -> int:
        """The token of places without a character."""
        return PADDING

    @cached_property
    def _codes(self) -> NDArray[np.uint32]:
        return _code_points(self.characters)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the tokens of a text: int32, one a character."""
        codes = _code_points(text)
        places = np.searchsorted(self._codes, codes)
        known = np.append(self._codes, np.uint32(0))[places] == codes
        known &= places < len(self._codes)
        return np.where(known, places + FIRST, UNKNOWN).astype(np.int32)

    def sequences(self, texts: Sequence[str], length: int) -> NDArray[np.int32]:
        """Return the texts' first ``length`` tokens, padded: int32, shape (n, length)."""
        return padded([self.encode(text[:length]) for text in texts], length, PADDING)

    def decode(self, tokens: NDArray[np.int32]) -> str:
        """Return the text of some tokens, without padding."""
        table = ["", REPLACEMENT, *self.characters]
        return "".join(table[token] for token in tokens.tolist())

    def to_json(self) -> str:
        """Return the tokenizer's file."""
        return json.dumps({"kind": KIND, "characters": self.characters})


def _code_points(text: str) -> NDArray[np.uint32]:
    # Half of a surrogate pair is no text, and yet a str may have it.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
