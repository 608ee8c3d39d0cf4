"""Checkpoints of the ``transformers`` library, from a folder of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.encoders import masked_mean
from atoll.clients.models.texts.tokens import as_tokens
from atoll.clients.tasks.next_token import NextToken
from atoll.clients.tasks.task import Task
from atoll.extras import OptionalModule

_transformers = OptionalModule("transformers", "model.name = 'huggingface'")


class Encoder(nn.Module):
    """A checkpoint's encoder, the mean over a text's tokens, and a linear head."""

    def __init__(self, backbone: Any, padding: int, outputs: int) -> None:
        super().__init__()
        self._padding = padding
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to (n, outputs)."""
        is_token = tokens != self._padding
        found = self.backbone(input_ids=tokens, attention_mask=is_token.long())
        logits: Tensor = self.head(masked_mean(found.last_hidden_state, is_token))
        return logits


class LanguageModel(nn.Module):
    """A checkpoint's causal language model, with its own head."""

    def __init__(self, backbone: Any, padding: int) -> None:
        super().__init__()
        self._padding = padding
        self.backbone = backbone

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to logits of the next one (n, length, vocabulary)."""
        is_token = tokens != self._padding
        found = self.backbone(input_ids=tokens, attention_mask=is_token.long(), use_cache=False)
        logits: Tensor = found.logits
        return logits


def huggingface(inputs: Inputs, task: Task, path: str) -> nn.Module:
    """Return a checkpoint of the ``transformers`` library; its code is the library's alone.

    For the next token it is a causal language model with its own head; else the encoder, with a
    new linear head on the mean of its last states.

    Parameters
    ----------
    path : str
        The folder of ``save_pretrained``: config.json and model.safetensors.
    """
    given = as_tokens(inputs)
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"model.path = {path!r}: has no config.json; expected a folder of save_pretrained"
        )
    is_language = isinstance(task, NextToken)
    kind = _transformers.AutoModelForCausalLM if is_language else _transformers.AutoModel
    backbone = kind.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    tokens = backbone.config.vocab_size
    if given.vocabulary > tokens:
        raise ValueError(
            f"model.path = {path!r}: has {tokens} tokens, the data set {given.vocabulary}; "
            "expected its own tokenizer as data.options.tokenizer"
        )
    if is_language:
        return LanguageModel(backbone, given.padding)
    return Encoder(backbone, given.padding, task.outputs)
