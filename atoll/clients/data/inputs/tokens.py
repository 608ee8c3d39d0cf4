"""Inputs that are sequences of tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from atoll.clients.data.inputs.base import Inputs


class TokenInputs(Inputs):
    """Sequences of tokens, padded at their end to one length: int32 stored, int64 given.

    Attributes
    ----------
    length : int
        Places of a sequence.
    vocabulary : int
        The number of tokens.
    padding : int
        The token that fills places without one.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import TokenInputs
    >>> inputs = TokenInputs(length=3, vocabulary=10)
    >>> inputs.to_tensor(np.array([[4, 2, 0]], np.int32))
    tensor([[4, 2, 0]])
    """

    kind: Literal["tokens"] = "tokens"
    length: Annotated[int, Field(ge=1)]
    vocabulary: Annotated[int, Field(ge=2)]
    padding: Annotated[int, Field(ge=0)] = 0

    @property
    def shape(self) -> tuple[int]:
        """The length."""
        return (self.length,)

    @property
    def stored_shape(self) -> tuple[int]:
        """The length."""
        return (self.length,)

    @property
    def stored_dtype(self) -> type[np.generic]:
        """Four bytes a token."""
        return np.int32

    @property
    def dtype(self) -> torch.dtype:
        """What embeddings look up."""
        return torch.int64

    def to_tensor(self, stored: NDArray[np.int32]) -> Tensor:
        """Return the tokens: int64, (n, length)."""
        return torch.from_numpy(stored.astype(np.int64))

    def varied(self, *counts: int, generator: torch.Generator) -> Tensor:
        """Return random tokens, shape ``(*counts, length)``."""
        return torch.randint(self.vocabulary, (*counts, self.length), generator=generator)

    @property
    def described(self) -> str:
        """The kind and the length."""
        return f"sequences of {self.length} of {self.vocabulary} tokens"
