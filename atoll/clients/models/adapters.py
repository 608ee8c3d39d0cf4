"""Adapters: a model's layers are frozen, and small updates of them are trained, by peft."""

from __future__ import annotations

from torch import nn

from atoll.clients.models.head import find_head
from atoll.clients.settings import AdapterSettings
from atoll.extras import OptionalModule

_peft = OptionalModule("peft", "model.adapters")


def with_adapters(model: nn.Module, settings: AdapterSettings) -> nn.Module:
    """Freeze a model, and give its linear layers low-rank updates to train.

    Updates are zero at first: the model's outputs are what they were.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    settings : AdapterSettings
        ``[model.adapters]``.

    Raises
    ------
    ValueError
        If no layer has such a name.
    InvalidExperimentError
        If peft is not installed.
    """
    trained = _trained_whole(model, settings)
    targets = _targets(model, settings, trained)
    config = _peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, lora_dropout=0.0
    )
    made: nn.Module = _peft.inject_adapter_in_model(config, model)
    for module in trained:
        module.requires_grad_(True)
    return made


def _trained_whole(model: nn.Module, settings: AdapterSettings) -> list[nn.Module]:
    if not settings.trained:
        return [find_head(model)]
    named = dict(model.named_modules())
    for name in settings.trained:
        if name not in named:
            raise ValueError(f"model.adapters.trained = {name!r}: it has no such layer")
    return [named[name] for name in settings.trained]


def _targets(model: nn.Module, settings: AdapterSettings, trained: list[nn.Module]) -> list[str]:
    """Return the full names of the layers that are given updates."""
    whole = {id(inner) for module in trained for inner in module.modules()}
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in whole
    ]
    ends = settings.targets
    found = [
        name
        for name in linear
        if not ends or any(name == end or name.endswith(f".{end}") for end in ends)
    ]
    if not found:
        raise ValueError(
            f"model.adapters.targets = {list(ends)}: no linear layer beside the head has such a "
            f"name; it has {', '.join(linear[:8]) or 'none'}"
        )
    return found
