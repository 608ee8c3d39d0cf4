"""Preparation of a model: the class that goes with the kind of its inputs."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.inputs.kinds import AnyInputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.texts.tokenizers import Tokenizer
from atoll.clients.tasks.kinds import AnyTask
from atoll.platform.results.models.pixel_model import InputFormat, PixelModel
from atoll.platform.results.models.prepared_model import ModelFormat, PreparedModel
from atoll.platform.results.models.table_model import TableModel
from atoll.platform.results.models.token_model import TokenModel


def format_of(inputs: AnyInputs, task: AnyTask) -> InputFormat | ModelFormat:
    """Return what a model is given and predicts, as it shows it."""
    if isinstance(inputs, ImageInputs):
        return InputFormat.of(inputs, task)
    return ModelFormat(inputs, task)


def prepared(
    network: nn.Module,
    data: InputFormat | ModelFormat,
    find_tokenizer: Callable[[], Tokenizer | None],
) -> PreparedModel:
    """Return a network behind its preprocessing."""
    if isinstance(data, InputFormat):
        return PixelModel(network, data)
    if isinstance(data.inputs, TableInputs):
        return TableModel(network, data.inputs, data.task)
    return TokenModel(network, data.inputs, data.task, find_tokenizer)
