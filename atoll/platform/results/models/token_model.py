"""A run's model with its preprocessing: tokens or texts in, the task's outputs out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from atoll.clients.data.files.dataset import TOKENIZER, Dataset
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.data.texts.tokenizers import Tokenizer, tokenizer_of
from atoll.clients.tasks.kinds import AnyTask
from atoll.errors import DataUnavailableError
from atoll.platform.results.models.prepared_model import ModelFormat, PreparedModel, stored_tensor


class TokenModel(PreparedModel):
    """A run's network of tokens, with the tokenizer of its data set.

    Parameters
    ----------
    network : nn.Module
        The network, with a run's parameters; it is put into evaluation mode.
    inputs : TokenInputs
        What it is given.
    task : Task
        What is predicted.
    find_tokenizer : Callable, optional
        Returns the tokenizer, or None; it is called when one is needed, for texts.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll import TokenModel
    >>> from atoll.clients import NextToken, TokenInputs
    >>> inputs, task = TokenInputs(length=3, vocabulary=5), NextToken(vocabulary=5, length=3)
    >>> TokenModel(nn.Embedding(5, 5), inputs, task).predict(torch.tensor([[1, 2, 0]])).tokens.shape
    (1, 3)
    """

    input_name = "tokens"

    def __init__(
        self,
        network: nn.Module,
        inputs: TokenInputs,
        task: AnyTask,
        find_tokenizer: Callable[[], Tokenizer | None] = lambda: None,
    ) -> None:
        super().__init__(network, ModelFormat(inputs, task))
        self.inputs = ModelFormat(inputs, task)
        self.tokens, self._find_tokenizer = inputs, find_tokenizer
        self.eval()

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the run's data set; None if the data are tokens without one."""
        return self._find_tokenizer()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the network's outputs for tokens: int64, shape (n, length)."""
        outputs: Tensor = self.network(tokens)
        return outputs

    def tensor_of(self, examples: Any) -> Tensor:
        """Return examples as :meth:`forward` takes them.

        Parameters
        ----------
        examples : str, list of str, Tensor, NDArray or Split
            Texts, which are cut to the run's length and padded; or tokens of that length.
        """
        if isinstance(examples, str):
            examples = [examples]
        if isinstance(examples, list | tuple) and all(isinstance(one, str) for one in examples):
            if self.tokenizer is None:
                raise DataUnavailableError(
                    "examples are texts, and the run's data set has no tokenizer; expected tokens"
                )
            return self.tokens.to_tensor(
                self.tokenizer.sequences(list(examples), self.tokens.length)
            )
        tokens = stored_tensor(examples, self.tokens)
        if tokens is None or tokens.is_floating_point() or tokens.is_complex():
            kind = type(examples).__name__ if tokens is None else tokens.dtype
            raise DataUnavailableError(
                f"examples are of {kind}; expected texts (a list of str) or whole numbers"
            )
        least, most = (int(tokens.min()), int(tokens.max())) if tokens.numel() else (0, 0)
        if least < 0 or most >= self.tokens.vocabulary:
            raise DataUnavailableError(
                f"examples have tokens from {least} to {most}; expected 0 to "
                f"{self.tokens.vocabulary - 1}"
            )
        return tokens.long()

    def example(self, count: int) -> Tensor:
        """Return sequences without padding."""
        token = 1 if self.tokens.padding == 0 else 0
        return torch.full((count, self.tokens.length), token)

    def described(self) -> dict[str, Any]:
        """Return what the tokens are; the tokenizer is a file of its own."""
        return {
            "preprocessing": {
                "input": "tokens, int64, shape (n, length), padded at their end",
                "tokenizer": None if self.tokenizer is None else TOKENIZER,
            }
        }

    def files(self) -> dict[str, str]:
        """Return the tokenizer's file, if there is one."""
        return {} if self.tokenizer is None else {TOKENIZER: self.tokenizer.to_json()}

    def check_dataset(self, dataset: Dataset) -> None:
        """Refuse texts of another length or tokenizer: their tokens mean others."""
        super().check_dataset(dataset)
        own = self.files()
        if dataset.inputs != self.tokens or own != _files_of(dataset):
            raise DataUnavailableError(
                f"{dataset.directory}: is of {dataset.inputs.described} by its own tokenizer; "
                f"expected {self.tokens.described} by the run's"
            )


def find_tokenizer(dataset: Dataset) -> Tokenizer | None:
    """Return a data set's tokenizer; None if it has none.

    Raises
    ------
    DataUnavailableError
        If it cannot be read.
    """
    return tokenizer_of(dataset) if (dataset.directory / TOKENIZER).exists() else None


def _files_of(dataset: Dataset) -> dict[str, str]:
    tokenizer = find_tokenizer(dataset)
    return {} if tokenizer is None else {TOKENIZER: tokenizer.to_json()}
