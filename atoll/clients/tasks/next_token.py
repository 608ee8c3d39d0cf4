"""Next-token prediction: at each place of a sequence, the token that follows."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from atoll.clients.tasks.task import Measured, Metrics, Task

# A target that counts for nothing: there is padding after the sequence's last token.
IGNORED = -100


class NextToken(Task):
    """Task of the next token at every place, by cross-entropy; padding is left out.

    Targets are int64, shape (n, length), and ``IGNORED`` (-100) where nothing follows. An
    example's loss is the mean over its tokens; loss and perplexity of an evaluation are by token.

    Attributes
    ----------
    vocabulary : int
        The number of tokens.
    length : int
        Places of a sequence.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import NextToken
    >>> task = NextToken(vocabulary=4, length=3)
    >>> outputs, targets = torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]])
    >>> metrics = task.summarise(task.measure(outputs, targets))
    >>> round(metrics["perplexity"], 6), metrics["accuracy"]
    (4.0, 0.0)
    """

    kind: Literal["next-token"] = "next-token"
    vocabulary: Annotated[int, Field(ge=2)]
    length: Annotated[int, Field(ge=1)]

    @property
    def outputs(self) -> int:
        """The number of tokens."""
        return self.vocabulary

    @property
    def output_shape(self) -> tuple[int, int]:
        """A logit a token at each place."""
        return self.length, self.vocabulary

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy by token, perplexity and the loss in nats a token."""
        return ("accuracy", "perplexity", "loss")

    @property
    def means(self) -> tuple[str, ...]:
        """Loss and accuracy, by token."""
        return ("loss", "accuracy")

    def predicted(self, measured: Measured, examples: int) -> int:
        """Return the number of tokens."""
        return int(measured.sums["tokens"])

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean cross-entropy over its tokens; 0 without any."""
        each = self._of_tokens(outputs, targets)
        return each.sum(-1) / (targets != IGNORED).sum(-1).clamp_min(1)

    def _of_tokens(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            outputs.movedim(-1, 1), targets, ignore_index=IGNORED, reduction="none"
        )

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the most probable token at each place: int64, shape (n, length)."""
        return outputs.argmax(-1)

    def blank_targets(self, count: int) -> Tensor:
        """Return token 0 everywhere: int64, shape (count, length)."""
        return torch.zeros(count, self.length, dtype=torch.int64)

    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        """Return the tokens, the right ones, and the summed loss."""
        is_token = targets != IGNORED
        right = (self.predictions(outputs) == targets) & is_token
        return Measured(
            {
                "tokens": np.array(int(is_token.sum())),
                "correct": np.array(int(right.sum())),
                "loss": np.array(float(self._of_tokens(outputs.double(), targets).sum())),
            }
        )

    def summarise(self, measured: Measured) -> Metrics:
        """Return accuracy, perplexity and loss by token."""
        tokens = max(1, int(measured.sums["tokens"]))
        loss = float(measured.sums["loss"]) / tokens
        return {
            "accuracy": int(measured.sums["correct"]) / tokens,
            "perplexity": math.exp(min(loss, 700.0)),
            "loss": loss,
        }
