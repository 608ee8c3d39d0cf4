"""Tensors of a model that travel: what training changes, and not what it leaves as it is.

A model without frozen parameters travels whole. Of another one the frozen parameters stay where
they are, and so do buffers of layers that are in evaluation mode while the model trains (BatchNorm
of a frozen backbone): whoever needs them builds them, from the run's seed or from weights.
"""

from __future__ import annotations

import hashlib

from torch import Tensor, nn


def travelling_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model that travel, by their names in ``state_dict()``.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> _ = model[0].requires_grad_(False)
    >>> list(travelling_state(model))
    ['1.weight', '1.bias']
    """
    state = model.state_dict()
    staying = _staying(model)
    return {key: value for key, value in state.items() if key not in staying}


def frozen_sha256(model: nn.Module) -> str | None:
    """Return a hash of the tensors that do not travel: names, dtypes, shapes and bytes.

    None if all travel.
    """
    staying = _staying(model)
    kept = {key: value for key, value in model.state_dict().items() if key in staying}
    if not kept:
        return None
    digest = hashlib.sha256()
    for key, value in sorted(kept.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _staying(model: nn.Module) -> set[str]:
    """Return the names of the tensors that do not travel."""
    names = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in names if not parameter.requires_grad}
    return frozen | _constant_buffers(model) if frozen else frozen


def _constant_buffers(model: nn.Module) -> set[str]:
    """Return the buffers of layers that stay in evaluation mode when the model trains."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    constant = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        if not module.training
        for name, _ in module.named_buffers(recurse=False)
    }
    for module, was_training in modes:
        module.training = was_training
    return constant
