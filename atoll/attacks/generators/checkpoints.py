"""Foreign checkpoints: weights checked by name and shape, and loaded into our modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from atoll.errors import DataUnavailableError

M = TypeVar("M", bound=nn.Module)


def fill(build: Callable[[], M], weights: Mapping[str, Tensor], source: str, what: str) -> M:
    """Return a module that holds ``weights``, frozen and in evaluation mode.

    Parameters
    ----------
    build : Callable
        Makes the module; it is called where tensors have shapes but no memory.
    weights : Mapping[str, Tensor]
        By the names of the module's ``state_dict``; none may be missing or left over. Those of half
        or double precision become float32.
    source, what : str
        Where the weights come from and what they should be, for the error.

    Raises
    ------
    DataUnavailableError
        If a name or a shape is not that of the module.
    """
    with torch.device("meta"):
        module = build()
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        wanted = expected.get(name)
        found = tuple(weights[name].shape) if name in weights else None
        if wanted != found:
            raise DataUnavailableError(
                f"{source}: is not {what}: {name} {_described(found)}, expected "
                f"{'no such tensor' if wanted is None else f'shape {wanted}'}"
            )
    single = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
    module.load_state_dict(single, assign=True)
    return module.eval().requires_grad_(False)


def _described(shape: tuple[int, ...] | None) -> str:
    return "is missing" if shape is None else f"has shape {shape}"
